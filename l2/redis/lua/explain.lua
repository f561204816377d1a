-- explain: what is stored under a key, dead or alive. ARGV: 2 key.
-- Answers the verdict, the killing record's position and the number of the tag
-- that it names (0: none); whether the key is leased, the lease's stamp and
-- end; then the bytes stored, if they are a string.

--@include ledger

local key = ARGV[2]
local ASK = {'', 'k' .. key}

--@include open
--@include lease

local holder, leased_at, ends, lease_epoch = lease_of(key)
local leased = holder and binding(leased_at, lease_epoch)
local lease = pack('>BI8I8', leased and 1 or 0, leased and leased_at or 0, leased and ends or 0)

local raw, record = try('GET', BASE .. 'e:' .. key), FOUND[2]
if type(raw) == 'string' then
  --@include judge

  BODY = pack('>BI8I2', found, killer, nth) .. lease
  MORE[2] = raw
else
  BODY = pack('>BI8I2', raw and CORRUPT or ABSENT, 0, 0) .. lease
end

--@include answer
