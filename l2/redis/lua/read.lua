-- read: for each key the live entry, or else a lease.
-- ARGV[2] holds 32 bytes a key (nonce, lease duration, refresh within, both in
-- microseconds), or nothing if no key wants a lease; the keys follow.
-- Answers 18 bytes a key: verdict, lease, lease's stamp, lease's end; then, in
-- elements of their own, the bytes of the live entries.

local NO_LEASE, GRANTED, HELD = 0, 1, 2
local WISH_BYTES = 32

local t, k = t_members(), k_members()
local entries, raws = {}, {}
for i = 3, #ARGV do
  local key = ARGV[i]
  k[#k + 1] = 'k' .. key
  local raw = redis.pcall('GET', BASE .. 'e:' .. key)
  if raw then
    -- Anything but a string here is an error table: a key of another type.
    entries[i] = type(raw) == 'string' and parse(raw, key, t) or CORRUPT
    raws[i] = raw
  end
end
t = scores(T, t)
k = scores(K, k)
local refused = open(t, k)
if refused then return refused end

-- judge returns the verdict on the entry of an argument. Bytes that are not an
-- entry of its key are deleted, unless they are a later version's, which other
-- nodes may be able to read.
local function judge(i)
  local entry, raw = entries[i], raws[i]
  if not entry then return ABSENT end
  if entry ~= CORRUPT then
    local found = verdict(entry, t, k[K_RESERVED + i - 2])
    if found == LIVE or own_head(raw) then return found end
  elseif type(raw) == 'string' and #raw >= HEAD_BYTES and sub(raw, 1, 2) == 'sc' and byte(raw, 3) > 1
    and own_head(raw) then
    return CORRUPT
  end
  redis.call('UNLINK', BASE .. 'e:' .. ARGV[i])
  WROTE = true
  return CORRUPT
end

-- lease answers the wish for a lease.
local function lease(i, found)
  local nonce, duration, within = unpack_bytes('>c16I8I8', ARGV[2], (i - 3) * WISH_BYTES + 1)
  if duration == 0 then return NO_LEASE, 0, 0 end
  if found == LIVE and math.max(0, entries[i].fresh - NOW) > within then return NO_LEASE, 0, 0 end
  local holder, stamp, ends, epoch = lease_of(ARGV[i])
  if holder and binding(stamp, epoch) then
    return holder == nonce and GRANTED or HELD, stamp, ends
  end
  ends = give(ARGV[i], nonce, HEAD, duration)
  if not ends then return NO_LEASE, 0, 0 end
  return GRANTED, HEAD, ends
end

local wanted = #ARGV[2] > 0
local body, live = '', {}
local parts = #ARGV > 3 and {}
for i = 3, #ARGV do
  local found = judge(i)
  local state, stamp, ends = NO_LEASE, 0, 0
  if wanted then state, stamp, ends = lease(i, found) end
  local part = pack('>BBI8I8', found, state, stamp, ends)
  if parts then parts[i - 2] = part else body = part end
  if found == LIVE then live[#live + 1] = raws[i] end
end
if parts then body = table.concat(parts) end
local result = answer(body)
for _, raw in ipairs(live) do result[#result + 1] = raw end
return result
