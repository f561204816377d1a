-- renew and release: ARGV 2 nonce, 3 name (see schemas.lua), 4 how long the lease is to last from
-- now (0: hand it back), and then what became of the load and for how long that
-- is to be remembered. Answers the outcome and the lease's stamp.

--@include ledger

local ASK = {''}

--@include open
--@include lease

local name = ARGV[3]
local prolonged = function() end
if byte(name) == 255 then
  --@include schemas

  local list = schemas_of(name)
  prolonged = list.own and function(ends) prolong(list, ends) end
end
local duration, outcome, remember = unbox('>I8BI8', ARGV[4])
local holder, stamp, epoch, _
if prolonged then holder, stamp, _, epoch = lease_of(name) end
if holder ~= ARGV[2] or not binding(stamp, epoch) then
  BODY = pack('>BI8', LEASE_LOST, 0)
else
  if duration == 0 then
    finish(name, holder, outcome, remember)
  else
    -- A Redis without memory lets a script finish that has written, and the lease
    -- takes no more than it did.
    call('PEXPIRE', BASE .. 'l:' .. name, text(math.ceil(duration / 1000)))
    prolonged(give(name, holder, stamp, duration))
  end
  BODY = pack('>BI8', STORED, stamp)
end

--@include answer
