-- invalidate: appends one record and deletes the entries and leases of the keys
-- that it names. Each argument from ARGV[2] on is a target in the form of its
-- record: 't'..tag, 'k'..key, or 'a' for everything.
-- Answers the position that came before the record; the head is the record's.

--@include ledger

local ASK = {''}
APPENDING = true

--@include open
--@include append

local tags, keys, everything = {}, {}, false
local dead = {BASE .. '!'}
for i = 2, #ARGV do
  local kind = sub(ARGV[i], 1, 1)
  if kind == 't' then
    tags[#tags + 1] = ARGV[i]
  elseif kind == 'k' then
    keys[#keys + 1] = ARGV[i]
    local key = sub(ARGV[i], 2)
    dead[#dead + 1] = BASE .. 'e:' .. key
    dead[#dead + 1] = BASE .. 'l:' .. key
  else
    everything = true
  end
end
-- The deletion comes first: once a script has written, a Redis without memory
-- lets it finish, and an invalidation must not fail for want of memory.
for from = 1, #dead, CHUNK do
  call('UNLINK', unpack(dead, from, math.min(from + CHUNK - 1, #dead)))
end
BODY = pack('>I8', append(tags, keys, everything))

--@include answer
