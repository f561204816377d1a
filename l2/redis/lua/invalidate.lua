-- invalidate: appends one record and deletes the entries and leases of the keys
-- that it names, in every schema. Each argument from ARGV[2] on is a target in the form of its
-- record: 't'..tag, 'k'..key, or 'a' for everything; or 's' and for how long they
-- settle, in microseconds.
-- Answers the position that came before the record; the head is the record's.

--@include ledger

local ASK = {''}
APPENDING = true

--@include open
--@include append

local tags, keys, everything, settle = {}, {}, false, nil
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
  elseif kind == 's' then
    settle = unbox('>I8', ARGV[i], 2)
  else
    everything = true
  end
end
if settle then
  --@include later

  if later(BASE .. 'w', LATER_SETTLING) then return redis.error_reply('SORALATER ' .. BASE .. 'w') end
end
if #keys > 0 then
  --@include every
end
-- The deletion comes first: once a script has written, a Redis without memory
-- lets it finish, and an invalidation must not fail for want of memory.
for from = 1, #dead, CHUNK do
  call('UNLINK', unpack(dead, from, math.min(from + CHUNK - 1, #dead)))
end
if settle then
  --@include settling

  if type(try('ZCARD', W)) == 'table' then call('UNLINK', W) end -- an error: of another type
  local settles, ends = {}, text(NOW + settle)
  for _, targets in ipairs({tags, keys, everything and {'a'} or {}}) do
    for _, target in ipairs(targets) do
      settles[#settles + 1] = ends
      settles[#settles + 1] = target
    end
  end
  for from = 1, #settles, CHUNK do
    call('ZADD', W, 'GT', unpack(settles, from, math.min(from + CHUNK - 1, #settles)))
  end
  note()
end
BODY = pack('>I8', append(tags, keys, everything))

--@include answer
