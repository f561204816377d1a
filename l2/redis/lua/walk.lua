-- walk: deletes what is dead among the entries of the partition that one step
-- of a scan of the whole keyspace meets. ARGV: 2 where to go on.
-- Answers like reclaim, with a bucket of zero.

--@include ledger

local ASK = {''}

--@include open
--@include buckets

local prefix = BASE .. 'e:'
local scan, keys = ARGV[2], {}
for _ = 1, 8 do
  local page = call('SCAN', scan, 'MATCH', prefix .. '*', 'COUNT', WALK_COUNT)
  scan = page[1]
  for _, name in ipairs(page[2]) do keys[#keys + 1] = sub(name, #prefix + 1) end
  if scan == '0' or #keys >= WALK_STEP then break end
end

local latest, dead = records(keys), {BASE .. '!'}
for i, key in ipairs(keys) do
  if judge(key, latest[i]) > CORRUPT then dead[#dead + 1] = prefix .. key end
end
call('UNLINK', unpack(dead))
BODY, MORE[2] = place(nil) .. pack('>I8', #dead - 1), scan

--@include answer
