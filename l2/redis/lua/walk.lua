-- walk: deletes what is dead among the entries of the partition that one step
-- of a scan of the whole keyspace meets. ARGV: 2 where to go on.
-- Answers how many entries it deleted; then where to go on ('0': done).

local SCANNED, CONSIDERED = 200, 100

local prefix = BASE .. 'e:'
local scan = ARGV[2]
for _ = 1, 8 do
  local page = redis.call('SCAN', scan, 'MATCH', prefix .. '*', 'COUNT', SCANNED)
  scan = page[1]
  for _, name in ipairs(page[2]) do consider(string.sub(name, #prefix + 1)) end
  if scan == '0' or #candidates >= CONSIDERED then break end
end
local refused = judge_all()
if refused then return refused end

local result = answer(pack('>I8', reclaim()))
result[#result + 1] = scan
return result
