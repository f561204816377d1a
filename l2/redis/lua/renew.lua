-- renew and release: ARGV 2 nonce, 3 key, 4 how long the lease is to last from
-- now (0: hand it back). Answers the outcome and the lease's stamp.

local DONE, LEASE_LOST = 0, 2

local refused = open(scores(T, t_members()), scores(K, k_members()))
if refused then return refused end

local key = ARGV[3]
local duration = unpack_bytes('>I8', ARGV[4])
local holder, stamp, _, epoch = lease_of(key)
if holder ~= ARGV[2] or not binding(stamp, epoch) then
  return answer(pack('>BI8', LEASE_LOST, 0))
end
if duration == 0 then
  redis.call('DEL', BASE .. 'l:' .. key)
  WROTE = true
elseif not give(key, holder, stamp, duration) then
  return redis.error_reply('OOM no memory to renew a lease')
end
return answer(pack('>BI8', DONE, stamp))
