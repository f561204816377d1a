-- The one rule, applied to stored bytes. This is not a function: for every key
-- read it would cost as much again.
-- In: raw, at least as many of the bytes as hold the tags; key; record, the
-- position of the key's record, if any. Out: found, the verdict; killer, the
-- position of the record that kills the entry; nth, which of its tags that
-- names; and its stamp, when it was written, for how long from then it is fresh
-- and kept, and its tags (in the form of t's records).

local found, killer, nth = CORRUPT, 0, 0
local epoch, stamp, written, fresh, keep, count, key_bytes
local tags = {}
if #raw >= FIXED_BYTES and sub(raw, 1, 3) == 'sc\2' then
  epoch, stamp, written, fresh, keep, count, key_bytes = unbox('>I7I7I7I6I6xxxxxxxxxxxxxI2I2', raw, 4)
  local at = FIXED_BYTES + key_bytes + 1
  if sub(raw, FIXED_BYTES + 1, at - 1) == key then
    found = LIVE
    for n = 1, count do
      local high, low = byte(raw, at, at + 1)
      local stop = low and at + 1 + high * 256 + low
      if not stop or stop > #raw then
        found = CORRUPT
        break
      end
      tags[n] = 't' .. sub(raw, at + 2, stop)
      at = stop + 1
    end
  end
end
if found == CORRUPT then -- or of another version
elseif epoch ~= EPOCH then
  found = FOREIGN_EPOCH
elseif written + keep <= NOW or written > NOW + CLOCK_SLACK or keep > MAX_KEEP then -- (the clock was set back)
  found = EXPIRED
elseif stamp > HEAD then
  found = AHEAD
elseif stamp < CLEAR then
  found, killer = CLEARED, CLEAR
elseif record and tonumber(record) > stamp then
  found, killer = KEY_RECORD, tonumber(record)
elseif count > 0 and stamp < FLOOR_T then
  found = BELOW_FLOOR
elseif count > 0 then
  local latest = scores(T, tags)
  for n = 1, count do
    if latest[n] and tonumber(latest[n]) > stamp then
      found, killer, nth = TAG_RECORD, tonumber(latest[n]), n
      break
    end
  end
end
