-- What settles: targets of invalidations which a source that lags may not know
-- of yet. Until their time has come, no fill that they name is stored.
--
--   w  '!', when it was last changed; and targets in the form of records ('t'..tag,
--      'k'..key, 'a' for everything) = until when they settle
--
-- The reserved member has a negative score. SETTLES, the end of t's reserved
-- member, ends with it, so that the loss of this set alone is noticed: everything
-- settles then, until the last of it would have. The set has no expiry, and goes
-- when all has settled. This is a part of open.lua, for when something settles.
-- When it appends, APPENDING has been set, so that the history was looked at.

do
  --@include settling

  local first, last = unbox('>I8I8', SETTLES)
  local found = try('ZSCORE', W, '!' .. sub(SETTLES, MARKED))
  if type(found) ~= 'string' and later(W, LATER_SETTLING) then return redis.error_reply('SORALATER ' .. W) end
  if type(found) ~= 'string' or last > NOW + 2 * MAX_SETTLE then -- lost, or the clock was set back
    local held = try('ZRANGE', W, '-1', '-1', 'WITHSCORES')
    settle_all(math.min(math.max(last, tonumber(held[2]) or 0), NOW + MAX_SETTLE))
    note()
    call('ZREM', T, STATE)
    STATE = compose(EPOCH, HEAD, FLOOR_K, FLOOR_T, CLEAR, LONGEST, PROCESS, PARTITIONS)
    call('ZADD', T, '-1', STATE)
    first, WROTE = unbox('>I8', SETTLES), true
  end
  if first <= NOW then
    --@include append

    local tags, keys, everything = {}, {}, false
    local dead = {BASE .. '!'}
    for _, target in ipairs(call('ZRANGE', W, '(0', text(NOW), 'BYSCORE')) do
      local kind = sub(target, 1, 1)
      if kind == 't' then
        tags[#tags + 1] = target
      elseif kind == 'k' then
        keys[#keys + 1] = target
        dead[#dead + 1] = BASE .. 'e:' .. sub(target, 2)
        dead[#dead + 1] = BASE .. 'l:' .. sub(target, 2)
      else
        everything = true
      end
    end
    if #keys > 0 then
      --@include every
    end
    -- The deletion comes first: see invalidate.lua.
    for from = 1, #dead, CHUNK do
      call('UNLINK', unpack(dead, from, math.min(from + CHUNK - 1, #dead)))
    end
    call('ZREMRANGEBYSCORE', W, '(0', text(NOW))
    note()
    append(tags, keys, everything)
    ASK[1] = sub(STATE, 1, MARK_BYTES)
    FOUND = scores(K, ASK)
  end
end
