-- read: for each key the live entry, or else a lease.
-- ARGV[2] holds 32 bytes a key (how long the lease is to last and for how long
-- fresh an entry is to be refreshed, in microseconds, and the nonce), or nothing
-- if no key wants a lease; the keys follow.
-- Answers 18 bytes a key: verdict, lease, lease's stamp (or why it is refused),
-- lease's end; then, in elements of their own, the bytes of the live entries. A script pays for every
-- byte that it touches, so of a large entry it answers the head alone, and the
-- caller gets the whole with a plain GET.

--@include ledger

local ASK = {'', ''}
for i = 3, #ARGV do ASK[i - 1] = 'k' .. ARGV[i] end

--@include open

local ENTRY, lease = BASE .. 'e:', nil
for i = 3, #ARGV do
  local key, record = ARGV[i], FOUND[i - 1]
  local raw = try('GETRANGE', ENTRY .. key, '0', LARGE_END)
  local verdict, sound, expires = ABSENT, true, 0
  if raw == '' then
    sound = call('EXISTS', ENTRY .. key) == 0
  elseif type(raw) == 'string' then
    --@include judge

    verdict, expires = found, fresh
    if found == LIVE then
      MORE[#MORE + 1] = #raw < LARGE_BYTES and raw or sub(raw, 1, HEAD_BYTES)
    elseif #raw < HEAD_BYTES
      or tonumber(sub(redis.sha1hex(sub(raw, 1, 36)), 1, 8), 16) ~= unbox('>I4', raw, 37) then
      sound = false
    elseif found == CORRUPT then
      -- Others may be able to read a later version. The rest is garbage.
      sound = sub(raw, 1, 2) == 'sc' and string.byte(raw, 3) > 1
    end
  elseif string.find(raw.err, 'WRONGTYPE', 1, true) then
    sound = false
  else
    return raw
  end
  if not sound then
    call('UNLINK', ENTRY .. key)
    verdict, WROTE = CORRUPT, true
  end

  local state, stamp, ends = LEASE_NONE, 0, 0
  if ARGV[2] ~= '' then
    local at = (i - 3) * WISH_BYTES
    local duration, within = unbox('>I8I8', ARGV[2], at + 1)
    if duration > 0 and (verdict ~= LIVE or math.max(0, expires - NOW) <= within) then
      if not lease then
        --@include lease

        lease = function(wanted, asked, long)
          local holder, given, until_, epoch = lease_of(wanted)
          if holder == '' then return LEASE_REFUSED, REFUSAL_LIMIT, 0 end -- a later version's
          if holder and binding(given, epoch) then
            return holder == asked and LEASE_GRANTED or LEASE_HELD, given, until_
          end
          until_ = give(wanted, asked, HEAD, long)
          if not until_ then return LEASE_REFUSED, REFUSAL_STORE_FULL, 0 end
          return LEASE_GRANTED, HEAD, until_
        end
      end
      state, stamp, ends = lease(key, sub(ARGV[2], at + 17, at + WISH_BYTES), duration)
    end
  end
  ARGV[i] = state == LEASE_NONE and verdict == LIVE and NOTHING_TO_TELL or pack('>BBI8I8', verdict, state, stamp, ends)
end
BODY = table.concat(ARGV, '', 3)

--@include answer
