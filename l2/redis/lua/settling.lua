-- Changing what settles: see settle.lua.

local W = BASE .. 'w'
--@include later

-- settle_all has everything settle until a time, in the place of what did.
local function settle_all(ends)
  call('UNLINK', W)
  call('ZADD', W, text(ends), 'a')
end

-- note makes SETTLES tell what the set holds, which is bounded here. Whoever
-- calls it writes the state then.
local function note()
  call('ZREMRANGEBYSCORE', W, '-inf', '(0')
  local last = call('ZRANGE', W, '-1', '-1', 'WITHSCORES')[2]
  if not last then
    SETTLES = ''
    return
  end
  if call('ZCARD', W) > SETTLING_MOST then settle_all(last) end
  local first = call('ZRANGE', W, '0', '0', 'WITHSCORES')[2]
  SETTLES = pack('>I8I8I8', first, last, NOW)
  call('ZADD', W, '-1', '!' .. sub(SETTLES, MARKED))
end
