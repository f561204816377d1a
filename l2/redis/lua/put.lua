-- put: appends a record for the key and writes with its stamp.
-- ARGV: 2 and 3 see store.lua, 4 name (see schemas.lua), then tags.
-- Answers the position that came before the record; the head is the record's.

--@include ledger

local ASK = {''}
APPENDING = true

--@include open
--@include append
--@include sets
--@include store

local name = ARGV[4]
local key = byte(name) == 255 and sub(name, string.find(name, '\255', 2, true) + 1) or name
local keys, dead = {'k' .. key}, {}
--@include every

local tags = {}
for i = 5, #ARGV do tags[#tags + 1] = ARGV[i] end
if not store(name, math.max(HEAD + 1, NOW), ARGV[2], ARGV[3], tags) then
  return redis.error_reply('OOM no room for an entry')
end
-- What stands under the key in another schema is deleted, as by any record of it.
if name ~= key then
  --@include schemas

  dead[#dead + 1] = BASE .. 'e:' .. key
  dead[#dead + 1] = BASE .. 'l:' .. key
  keep_list({key = key, {sub(name, 2, #name - #key - 1), NOW + unbox('>I8', ARGV[2], 9)}})
end
local others = {}
for _, other in ipairs(dead) do
  if other ~= BASE .. 'e:' .. name and (name == key or other ~= BASE .. 'm:' .. key) then others[#others + 1] = other end
end
if #others > 0 then call('UNLINK', unpack(others)) end
BODY = pack('>I8', append({}, keys, false))

--@include answer
