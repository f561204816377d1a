-- bury: puts an end to a ledger, because its namespace is to have another number
-- of partitions. In the place of the state stands one of the same form, whose
-- number of partitions nobody can have, so that every step of any version is
-- refused. Of its other numbers, where the state has them:
--
--   epoch           0
--   head            above that of the ledger
--   floor of k, h   since when it stands
--   floor of t      0; once the change is done, the number of partitions
--
-- ARGV: 2 what to do: 'b' bury what is there, 'd' note that the change is done,
-- 'r' the same, and remove what stands in the place of a ledger to come; 3 the
-- number of partitions.
-- Answers for how long it has stood, in microseconds; -1: there is no ledger.

local call, try = redis.call, redis.pcall
local sub, byte = string.sub, string.byte
local pack, unbox = struct.pack, struct.unpack
local T, K, H = KEYS[1], KEYS[2], KEYS[3]
local X = sub(T, 1, -2) .. 'x'
local clock = call('TIME')
local NOW = clock[1] * 1000000 + clock[2]
local function text(number) return string.format('%.0f', number) end
--@include later

for _, set in ipairs({T, K, H}) do
  if later(set, 255) then return redis.error_reply('SORALATER ' .. set) end
end
call('UNLINK', sub(T, 1, -2) .. '!') -- a replica refuses it, and what follows needs no memory then
local there, state = call('EXISTS', T, K, H) > 0, try('ZRANGE', T, '0', '0')[1]
local head, since, done, partitions = NOW, NOW, 0, 0
local epoch = 0
if state and #state >= STATE_BYTES and sub(state, 1, 1) == '!' then
  epoch, head, since, done, partitions = unbox('>I8I8I8I8xxxxxxxxxxxxxxxxxxxxxxxxI2', state, 2)
end
if partitions ~= BURIED then
  if not there or ARGV[2] ~= 'b' then return -1 end
  if epoch ~= 0 then
    if type(try('ZADD', X, text(NOW), text(epoch))) == 'table' then -- an error: of another type
      call('UNLINK', X)
      call('ZADD', X, text(NOW), text(epoch))
    end
  end
  head, since = math.max(head + 1, NOW), NOW
elseif ARGV[2] == 'b' and done > 0 then -- of an earlier change
  since = NOW
end
done = ARGV[2] == 'b' and 0 or tonumber(ARGV[3])
call('UNLINK', T, K, H)
if ARGV[2] == 'r' then return NOW - since end
call('ZADD', T, '-1', pack('>c1I8I8I8I8I8I8I8I2', '!', 0, head, since, done, 0, 0, 0, BURIED))
if ARGV[2] == 'd' then
  call('PEXPIRE', T, NUMBER_EXPIRY)
  call('PEXPIRE', X, NUMBER_EXPIRY)
end
return NOW - since
