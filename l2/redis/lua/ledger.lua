-- The ledger of one partition: three sorted sets and a fourth beside them.
--
--   t  records of tags       't'..tag = position
--   k  records of keys       'k'..key = position
--   h  positions issued      'p'..position = position
--   x  epochs left or shown  epoch = when
--
-- Members that describe the ledger itself have negated scores, so a range over
-- positive scores meets records only:
--
--   !e epoch   !h head   !f floor                                in t, k and h
--   !a last clear   !m longest keep   !r process   !n partitions        in t
--
-- The loader puts three things above this text: RUN (which Redis process the
-- text was loaded into, 0 if that could not be learned), MAX_DELTA, and the
-- retention TAG_RECORDS, KEY_RECORDS, AGE (microseconds).
--
-- KEYS are t, k and h. The other keys of the partition share their hash tag and
-- are derived here: most cannot be known before the script runs.
-- ARGV[1] is the same for every script: a random candidate for a new epoch, the
-- epoch and position that the caller shows, and the number of partitions.

local T, K, H = KEYS[1], KEYS[2], KEYS[3]
local BASE = string.sub(T, 1, -2)
local X = BASE .. 'x'

local pack, unpack_bytes = struct.pack, struct.unpack
local CANDIDATE, SHOWN_EPOCH, SHOWN, PARTITIONS = unpack_bytes('>I8I8I8I2', ARGV[1])

local clock = redis.call('TIME')
local NOW = clock[1] * 1000000 + clock[2]

local EPOCH, HEAD, FLOOR_T, FLOOR_K, CLEAR, LONGEST, PROCESS
local RESET, MINTED, WROTE = false, false, false

local T_RESERVED, K_RESERVED, CHUNK = 7, 3, 4000

-- Numbers become text this way only: Lua's own tostring keeps 14 digits.
local function text(number) return string.format('%.0f', number) end

-- scores looks members up in a sorted set. A key of another type is as good as
-- lost, so it reads as empty.
local function scores(set, members)
  local found
  if #members <= CHUNK then
    found = redis.pcall('ZMSCORE', set, unpack(members))
    if not found.err then return found end
  else
    local all = {}
    for from = 1, #members, CHUNK do
      local to = math.min(from + CHUNK - 1, #members)
      found = redis.pcall('ZMSCORE', set, unpack(members, from, to))
      if found.err then break end
      for i = 1, to - from + 1 do all[from + i - 1] = found[i] end
    end
    if not found.err then return all end
  end
  if string.find(found.err, 'WRONGTYPE', 1, true) then return {} end
  error(found)
end

local function negated(score) return score and -score end

-- mint starts a new life of the ledger. What it left and what it was shown is
-- remembered, so that two callers cannot make each other mint for ever.
local function mint()
  local reserved = {'!e', '!h', '!r'}
  local past = {[text(SHOWN_EPOCH)] = true}
  HEAD = math.max(NOW, SHOWN + 1)
  local process = RUN
  for _, set in ipairs({T, K, H}) do
    local found = scores(set, reserved)
    if found[1] then past[text(-found[1])] = true end
    if found[2] then HEAD = math.max(HEAD, 1 - found[2]) end
    if process == 0 and found[3] then process = -found[3] end
  end
  past['0'] = nil

  EPOCH = CANDIDATE
  while EPOCH == 0 or past[text(EPOCH)] or tonumber(redis.pcall('ZSCORE', X, text(EPOCH))) do
    EPOCH = (EPOCH + 1) % 2 ^ 52
  end
  redis.call('UNLINK', T, K, H)
  for epoch in pairs(past) do
    if type(redis.pcall('ZADD', X, NOW, epoch)) == 'table' then -- an error: of another type
      redis.call('UNLINK', X)
      redis.call('ZADD', X, NOW, epoch)
    end
  end
  redis.pcall('ZREMRANGEBYRANK', X, 0, -1001)

  FLOOR_T, FLOOR_K, CLEAR, LONGEST, PROCESS = HEAD, HEAD, 0, 0, process
  local epoch, head = text(-EPOCH), text(-HEAD)
  redis.call('ZADD', H, epoch, '!e', head, '!h', head, '!f', text(HEAD), 'p' .. text(HEAD))
  redis.call('ZADD', K, epoch, '!e', head, '!h', head, '!f')
  redis.call('ZADD', T, epoch, '!e', head, '!h', head, '!f', 0, '!a', 0, '!m',
    text(-process), '!r', text(-PARTITIONS), '!n')
  MINTED, WROTE, RESET = true, true, SHOWN_EPOCH ~= 0
end

-- another_history tells whether the ledger's own history is damaged, or does
-- not hold the position that the caller shows. It sets RESET if the position is
-- older than the history.
local function another_history(shown_here)
  local found = scores(H, {'!e', '!h', '!f', 'p' .. text(SHOWN)})
  if negated(found[1]) ~= EPOCH or negated(found[2]) ~= HEAD or not found[3] then return true end
  if not shown_here then return false end
  if SHOWN < -found[3] then
    RESET = true
    return false
  end
  return not found[4]
end

-- T_MEMBERS and K_MEMBERS begin the lists that scripts look up in t and k, so
-- that what open needs costs no call of its own.
local function t_members() return {'!e', '!h', '!f', '!a', '!m', '!r', '!n'} end
local function k_members() return {'!e', '!h', '!f'} end

-- open makes the ledger ready for use: it takes a new epoch if the ledger is
-- lost, damaged, attached to another process, or shown another history. It
-- returns an error reply if the ledger can never serve this caller.
local function open(t, k, appending)
  EPOCH, HEAD, FLOOR_T, CLEAR = negated(t[1]), negated(t[2]), negated(t[3]), negated(t[4])
  LONGEST, PROCESS, FLOOR_K = negated(t[5]), negated(t[6]), negated(k[3])
  if t[7] and -t[7] ~= PARTITIONS then
    return redis.error_reply('SORACOUNT this namespace was created with another number of partitions: ' .. text(-t[7]))
  end
  local whole = EPOCH and HEAD and FLOOR_T and CLEAR and LONGEST and PROCESS and t[7] and FLOOR_K
    and EPOCH == negated(k[1]) and HEAD == negated(k[2])
  if not whole or RUN ~= 0 and RUN ~= PROCESS then
    return mint()
  end
  local shown_here = SHOWN_EPOCH == EPOCH
  if shown_here and SHOWN > HEAD then
    return mint()
  end
  local behind = shown_here and SHOWN < HEAD
  if (behind or appending) and another_history(behind) then
    return mint()
  end
  if SHOWN_EPOCH ~= 0 and not shown_here then
    if not tonumber(redis.pcall('ZSCORE', X, text(SHOWN_EPOCH))) then
      return mint()
    end
    RESET = true
  end
end

-- records_after packs what a set recorded after the position shown, and returns
-- up to where that is complete (0: all of it). A first record that alone is
-- over the limit is returned whole.
local function records_after(set)
  local found = redis.call('ZRANGE', set, '(' .. text(SHOWN), '+inf', 'BYSCORE',
    'LIMIT', 0, MAX_DELTA + 1, 'WITHSCORES')
  local complete = 0
  if #found > 2 * MAX_DELTA then
    local first, last = found[2], found[#found]
    if first == last then
      found = redis.call('ZRANGE', set, first, first, 'BYSCORE', 'WITHSCORES')
      if redis.call('ZCOUNT', set, '(' .. first, '+inf') > 0 then complete = tonumber(first) end
    else
      complete = last - 1
    end
  end
  local packed = {}
  for i = 1, #found, 2 do
    packed[#packed + 1] = pack('>I8I2', found[i + 1], #found[i]) .. found[i]
  end
  return table.concat(packed), complete
end

-- answer composes what every script answers: flags, epoch, head and clock, then
-- the operation's own bytes; then, if there is one, the delta.
local function answer(body)
  if not WROTE then
    redis.call('DEL', BASE .. '!') -- deletes nothing, and a replica refuses it
  end
  local delta
  if SHOWN_EPOCH == EPOCH and not RESET and SHOWN ~= HEAD then
    if SHOWN < FLOOR_K or SHOWN < FLOOR_T then
      RESET = true
    else
      local t, t_complete = records_after(T)
      local k, k_complete = records_after(K)
      local clear = CLEAR > SHOWN and CLEAR or 0
      delta = pack('>I8I8I8', t_complete, k_complete, clear) .. t .. k
    end
  end
  local flags = (RESET and 1 or 0) + (MINTED and 2 or 0) + (delta and 4 or 0)
  return {pack('>BI8I8I8', flags, EPOCH, HEAD, NOW) .. body, delta}
end
