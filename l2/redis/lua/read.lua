-- read: for each key the live entry, or else a lease.
-- ARGV[2] holds 32 bytes a key (how long the lease is to last and for how long
-- fresh an entry is to be refreshed, in microseconds, and the nonce), or nothing
-- if no key wants a lease; the names follow (see schemas.lua).
-- Answers 18 bytes a key: verdict, lease, lease's stamp (or why it is refused),
-- lease's end; then, in elements of their own, the bytes of the live entries. A
-- script pays for every byte that it touches, so of a large entry it answers the
-- head and the length alone, and the caller gets the whole beside it; so also
-- once many bytes were answered.

--@include ledger

local ASK = {'', ''}
for i = 3, #ARGV do
  local key = ARGV[i]
  if byte(key) == 255 then key = sub(key, string.find(key, '\255', 2, true) + 1) end
  ASK[i - 1] = 'k' .. key
end

--@include open

local ENTRY, lease, inline, schemas = BASE .. 'e:', nil, INLINE_MOST, nil
for i = 3, #ARGV do
  local key, record = ARGV[i], FOUND[i - 1]
  local most, last = LARGE_BYTES, LARGE_END
  local list -- of schemas: nil for the default one
  if byte(key) == 255 then
    if not schemas then
      --@include schemas

      schemas = {of = schemas_of, enlist = enlist}
    end
    list = schemas.of(key)
  end
  if inline < 0 then most, last = SMALL_BYTES + 1, SMALL_END end -- enough to judge by
  local raw = (not list or list.own) and try('GETRANGE', ENTRY .. key, '0', last)
  if most < LARGE_BYTES and type(raw) == 'string' and #raw == most then
    local count, key_bytes = unbox('>I2I2', raw, 50)
    local at = FIXED_BYTES + key_bytes + 1
    while count > 0 and at < #raw do
      local high, low = byte(raw, at, at + 1)
      at, count = at + 2 + high * 256 + low, count - 1
    end
    if count > 0 or at > #raw + 1 then -- its tags are longer
      most = LARGE_BYTES
      raw = try('GETRANGE', ENTRY .. key, '0', LARGE_END)
    end
  end
  local verdict, sound, since, lasts = ABSENT, true, 0, 0
  if not raw then -- nothing counts there
  elseif raw == '' then
    sound = call('EXISTS', ENTRY .. key) == 0
  elseif type(raw) == 'string' then
    --@include judge

    verdict, since, lasts = found, written, fresh
    if found == LIVE then
      if #raw > SMALL_BYTES then inline = inline - #raw end
      if #raw < most and (inline >= 0 or #raw <= SMALL_BYTES) then
        MORE[#MORE + 1] = raw
      else
        MORE[#MORE + 1] = sub(raw, 1, HEAD_BYTES) .. pack('>I4', call('STRLEN', ENTRY .. key))
      end
    elseif #raw < HEAD_BYTES
      or tonumber(sub(redis.sha1hex(sub(raw, 1, 36)), 1, 8), 16) ~= unbox('>I4', raw, 37) then
      sound = false
    elseif found == CORRUPT then
      -- Others may be able to read another version. The rest is garbage. An
      -- earlier one is as good as expired: it does not say when it was written.
      local version = sub(raw, 1, 2) == 'sc' and byte(raw, 3)
      sound = version and version ~= 2
      if sound and version < 2 then verdict = EXPIRED end
    elseif found == EXPIRED then -- and if it was written later than now, it is not to live then
      call('UNLINK', ENTRY .. key)
      WROTE = true
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
    if duration > 0 and (verdict ~= LIVE or math.max(0, lasts - math.max(0, NOW - since)) <= within) then
      if not lease then
        --@include lease

        -- Beside a live entry nobody waits, so that there is nothing to pass: the
        -- others must not all load because a refresh failed.
        lease = function(wanted, asked, long, live, list)
          local nonce, given, until_, epoch
          if not list or list.own then nonce, given, until_, epoch = lease_of(wanted) end
          local failed = failed_of(wanted)
          if nonce == '' or list and list.later then return LEASE_REFUSED, REFUSAL_LIMIT, 0 end -- a later version's
          local passed = failed and not live
          if nonce and nonce ~= asked and binding(given, epoch, until_) then
            local its = holder_of(nonce)
            if failed ~= its or its == NOBODY or its == holder_of(asked) then
              if passed then return LEASE_REFUSED, REFUSAL_PASSED, 0 end
              return LEASE_HELD, given, until_
            end
          elseif nonce == asked and binding(given, epoch, until_) then
            return passed and LEASE_PASSED or LEASE_GRANTED, given, until_
          end
          until_ = (not list or schemas.enlist(list, NOW + long)) and give(wanted, asked, HEAD, long)
          if not until_ then return LEASE_REFUSED, REFUSAL_STORE_FULL, 0 end
          return passed and LEASE_PASSED or LEASE_GRANTED, HEAD, until_
        end
      end
      state, stamp, ends = lease(key, sub(ARGV[2], at + 17, at + WISH_BYTES), duration, verdict == LIVE, list)
    end
  end
  ARGV[i] = state == LEASE_NONE and verdict == LIVE and NOTHING_TO_TELL or pack('>BBI8I8', verdict, state, stamp, ends)
end
BODY = table.concat(ARGV, '', 3)

--@include answer
