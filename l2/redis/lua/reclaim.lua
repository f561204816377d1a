-- reclaim: deletes, among some of the keys under a tag, or without a tag of all
-- keys of the partition, what is dead, and takes out of the tags' sets what no
-- longer belongs there.
-- ARGV: 2 tag, 3 bucket to go on from, 4 where in its set, 5 what
-- to spend.
-- Answers how many entries it deleted, and the bucket to go on from (nothing:
-- done); then where in its set.

--@include ledger

local ASK = {''}

--@include open
--@include buckets
--@include sets

local from, from_ends, scan = start(ARGV[3], ARGV[4])
local deleted = 0

-- sort_out deals with some keys of a bucket, and returns what that cost. Bytes that
-- cannot be read here stay: they may be a later version's.
local function sort_out(keys, within, tag)
  local latest, dead, gone, spent = records(keys), {BASE .. '!'}, {}, 0
  for i, key in ipairs(keys) do
    local found, keep, tags = judge(key, latest[i])
    spent = spent + cost(tags)
    if found > CORRUPT then dead[#dead + 1] = BASE .. 'e:' .. key end
    if found ~= CORRUPT and (found ~= LIVE or not belongs(keep, tags, within, tag)) then gone[#gone + 1] = key end
  end
  call('UNLINK', unpack(dead))
  deleted = deleted + #dead - 1
  if #gone > 0 then call('SREM', within.set, unpack(gone)) end
  return spent
end

local bucket
bucket, MORE[2] = step_over(ARGV[2], from, from_ends, scan, tonumber(ARGV[5]), function(keys, within)
  local name, tag = within.name, ARGV[2]
  if tag == '' then name, tag = string.match(name, '^(%d+:%d+):(.*)$') end
  if not name then return 0 end
  if keys then return sort_out(keys, within, tag) end
  if call('EXISTS', within.set) == 0 then
    unlist(name, tag)
  end
end)
BODY = pack('>I8', deleted) .. place(bucket)

--@include answer
