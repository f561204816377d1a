-- put: appends a record for the key and writes with its stamp.
-- ARGV: 2 and 3 see store.lua, 4 key, then tags.
-- Answers the position that came before the record; the head is the record's.

--@include ledger

local ASK = {''}
APPENDING = true

--@include open
--@include append
--@include sets
--@include store

local key = ARGV[4]
local tags = {}
for i = 5, #ARGV do tags[#tags + 1] = ARGV[i] end
if not store(key, math.max(HEAD + 1, NOW), ARGV[2], ARGV[3], tags) then
  return redis.error_reply('OOM no room for an entry')
end
BODY = pack('>I8', append({}, {'k' .. key}, false))

--@include answer
