-- fill: completes a lease. ARGV: 2 nonce, 3 and 4 see store.lua, 5 name (see
-- schemas.lua), then tags. After what is of store.lua, 3 has for how long it is to be remembered if
-- there is no room for the entry.
-- Answers the outcome, the entry's stamp, and of the record that a superseded
-- fill lost to its position and which target it named: 0 unknown, 1 the key,
-- 2 everything, 3 and on the entry's tags. If it lost to a target that settles,
-- that is of the target's latest record; 0 if there is none.

--@include ledger

local name = ARGV[5]
local key = byte(name) == 255 and sub(name, string.find(name, '\255', 2, true) + 1) or name
local ASK = {'', 'k' .. key}

--@include open
--@include lease
--@include sets
--@include store

local tags, members = {}, {}
for i = 6, #ARGV do
  tags[i - 5] = ARGV[i]
  members[i - 5] = 't' .. ARGV[i]
end
local records = #tags > 0 and scores(T, members) or {}

-- listed has the schema of the name stay in the list; it is false if it is not
-- there, and does nothing for the default one.
local listed = function() end
if name ~= key then
  --@include schemas

  local list = schemas_of(name)
  listed = list.own and function(ends) prolong(list, ends) end
end

local holder, stamp, _, epoch
if listed then holder, stamp, _, epoch = lease_of(name) end

-- outcome applies the rule to what would be stored.
local function outcome()
  if holder ~= ARGV[2] then return LEASE_LOST, 0, 0 end
  if epoch ~= EPOCH or stamp > HEAD then return SUPERSEDED, 0, 0 end
  local position, target = HEAD + 1, 0
  local function against(record, named)
    record = tonumber(record)
    if record and record > stamp and record < position then position, target = record, named end
  end
  against(FOUND[2], 1)
  against(CLEAR, 2)
  for i = 1, #tags do against(records[i], 2 + i) end
  if target > 0 then return SUPERSEDED, position, target end
  if #tags > 0 and stamp < FLOOR_T then return SUPERSEDED, 0, 0 end
  if SETTLES ~= '' then
    local settles = scores(BASE .. 'w', {'k' .. key, 'a', unpack(members)})
    for i = 1, 2 + #tags do
      if settles[i] then
        local latest = i == 1 and FOUND[2] or i == 2 and CLEAR or records[i - 2]
        return SUPERSEDED, tonumber(latest) or 0, i
      end
    end
  end
  return STORED, 0, 0
end

local found, position, target = outcome()
if found == STORED then
  if not store(name, stamp, ARGV[3], ARGV[4], tags) then
    finish(name, holder, LOAD_NOT_STORABLE, unbox('>I8', ARGV[3], 19))
    return redis.error_reply('OOM no room for an entry')
  end
  listed(NOW + unbox('>I8', ARGV[3], 9))
else
  if found == SUPERSEDED then
    call('DEL', BASE .. 'l:' .. name)
    WROTE = true
  end
  if string.byte(ARGV[3], 18) == 1 then
    call('UNLINK', BASE .. ARGV[4])
    WROTE = true
  end
end
BODY = pack('>BI8I8I2', found, stamp or 0, position, target)

--@include answer
