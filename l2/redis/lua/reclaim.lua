-- reclaim: deletes, among about a step of the keys under a tag, what is dead,
-- and takes out of the tag's sets what no longer belongs there.
-- ARGV: 2 tag, 3 bucket to go on from, 4 where in its set, 5 step.
-- Answers the bucket to go on from (zero: done) and how many entries it
-- deleted; then where in its set.

--@include ledger

local ASK = {''}

--@include open
--@include buckets
--@include sets

local tag = ARGV[2]
local from, from_ends, scan = start()
local deleted = 0

-- sort_out deals with some keys of a bucket. Bytes that cannot be read here
-- stay: they may be a later version's.
local function sort_out(keys, within)
  local latest, dead, gone = records(keys), {BASE .. '!'}, {}
  for i, key in ipairs(keys) do
    local found, keep, tags = judge(key, latest[i])
    if found > CORRUPT then dead[#dead + 1] = BASE .. 'e:' .. key end
    if found ~= CORRUPT and (found ~= LIVE or not belongs(keep, tags, within, tag)) then gone[#gone + 1] = key end
  end
  call('UNLINK', unpack(dead))
  deleted = deleted + #dead - 1
  if #gone > 0 then call('SREM', within.set, unpack(gone)) end
end

local bucket
bucket, MORE[2] = step_over(tag, from, from_ends, scan, tonumber(ARGV[5]), function(keys, within)
  if keys then
    sort_out(keys, within)
  elseif call('EXISTS', within.set) == 0 then
    drop(within.name, tag)
  end
end)
BODY = place(bucket) .. pack('>I8', deleted)

--@include answer
