-- renew and release: ARGV 2 nonce, 3 key, 4 how long the lease is to last from
-- now (0: hand it back). Answers the outcome and the lease's stamp.

--@include ledger

local ASK = {''}

--@include open
--@include lease

local key = ARGV[3]
local duration = unbox('>I8', ARGV[4])
local holder, stamp, _, epoch = lease_of(key)
if holder ~= ARGV[2] or not binding(stamp, epoch) then
  BODY = pack('>BI8', LEASE_LOST, 0)
else
  if duration == 0 then
    call('DEL', BASE .. 'l:' .. key)
    WROTE = true
  elseif not give(key, holder, stamp, duration) then
    return redis.error_reply('OOM no memory to renew a lease')
  end
  BODY = pack('>BI8', STORED, stamp)
end

--@include answer
