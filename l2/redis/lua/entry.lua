-- Stored entries: reading their head and tags, and the one rule.

-- The verdicts on a stored entry. The numbers are part of what scripts answer.
local LIVE, ABSENT, CORRUPT, FOREIGN_EPOCH, EXPIRED, AHEAD, CLEARED, BELOW_FLOOR, TAG_RECORD, KEY_RECORD =
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9

local byte, sub = string.byte, string.sub
local HEAD_BYTES, FIXED_BYTES = 40, 53

-- own_head tells whether the first 36 bytes match the checksum after them.
local function own_head(raw)
  local sum = unpack_bytes('>I4', raw, 37)
  return tonumber(sub(redis.sha1hex(sub(raw, 1, 36)), 1, 8), 16) == sum
end

-- parse reads the head and the tags of an entry. Its tags are appended to
-- members, in the form of t's records. It returns nil if the bytes are not an
-- entry of that key, which includes entries of a version not known here.
local function parse(raw, key, members)
  if #raw < FIXED_BYTES or sub(raw, 1, 4) ~= 'sc\1\0' then return nil end
  local epoch, position, fresh, keep, _, _, _, _, tags, key_bytes =
    unpack_bytes('>I8I8I8I8I4I4BI4I2I2', raw, 5)
  local at = FIXED_BYTES + key_bytes + 1
  if sub(raw, FIXED_BYTES + 1, at - 1) ~= key then return nil end
  local first = #members
  for _ = 1, tags do
    local high, low = byte(raw, at, at + 1)
    local stop = low and at + 1 + high * 256 + low
    if not stop or stop > #raw then return nil end
    members[#members + 1] = 't' .. sub(raw, at + 2, stop)
    at = stop + 1
  end
  return {epoch = epoch, position = position, fresh = fresh, keep = keep, first = first, tags = tags}
end

-- verdict applies the rule to a parsed entry. t holds the scores of the members
-- that parse appended to; record is the score of its key's record, if any. It
-- returns what kills the entry and, for a record, its position and member's
-- index.
local function verdict(entry, t, record)
  local stamp = entry.position
  if entry.epoch ~= EPOCH then return FOREIGN_EPOCH end
  if entry.keep <= NOW then return EXPIRED end
  if stamp > HEAD then return AHEAD end
  if stamp < CLEAR then return CLEARED, CLEAR end
  if record and tonumber(record) > stamp then return KEY_RECORD, tonumber(record) end
  if entry.tags > 0 then
    if stamp < FLOOR_T then return BELOW_FLOOR end
    for i = entry.first + 1, entry.first + entry.tags do
      if t[i] and tonumber(t[i]) > stamp then return TAG_RECORD, tonumber(t[i]), i end
    end
  end
  return LIVE
end
