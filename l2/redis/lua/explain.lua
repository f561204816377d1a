-- explain: what is stored under a name, dead or alive. ARGV: 2 name (see
-- schemas.lua).
-- Answers the verdict, the killing record's position and the number of the tag
-- that it names (0: none; if nothing is stored: 1 the key, 2 everything, and 2
-- more if the key settles, 4 more if everything does); whether the key is leased,
-- the lease's stamp and end; how many bytes are stored; then the first of them, if
-- they are a string.

--@include ledger

local key, named = ARGV[2], ARGV[2]
if byte(key) == 255 then named = sub(key, string.find(key, '\255', 2, true) + 1) end
local ASK = {'', 'k' .. named}

--@include open
--@include lease

local counts = true
if named ~= key then
  --@include schemas

  counts = schemas_of(key).own
end
local holder, leased_at, ends, lease_epoch
if counts then holder, leased_at, ends, lease_epoch = lease_of(key) end
local leased = holder and binding(leased_at, lease_epoch, ends)
local lease = pack('>BI8I8', leased and 1 or 0, leased and leased_at or 0, leased and ends or 0)

local raw, record = counts and try('GETRANGE', BASE .. 'e:' .. key, '0', LARGE_END), FOUND[2]
if raw == '' and call('EXISTS', BASE .. 'e:' .. key) == 0 then raw = false end
if type(raw) == 'string' then
  --@include judge

  BODY = pack('>BI8I2', found, killer, nth) .. lease .. pack('>I4', #raw < LARGE_BYTES and #raw or call('STRLEN', BASE .. 'e:' .. key))
  MORE[2] = raw
elseif raw then
  BODY = pack('>BI8I2', CORRUPT, 0, 0) .. lease .. pack('>I4', 0)
else
  record = tonumber(record) or 0
  local nth = record > CLEAR and 1 or 2
  if SETTLES ~= '' then
    local settles = scores(BASE .. 'w', {'k' .. named, 'a'})
    nth = nth + (settles[1] and 2 or settles[2] and 4 or 0)
  end
  BODY = pack('>BI8I2', ABSENT, math.max(record, CLEAR), nth) .. lease .. pack('>I4', 0)
end

--@include answer
