-- Opening the ledger: a new epoch is taken if it is lost, damaged, attached to
-- another process, or shown another history; then what is due is appended. FOUND
-- holds the scores of ASK. What a later version has written is left as it is.

STATE = try('ZRANGE', T, '0', '0')[1]
local FOUND, whole, counted = {}, false, false
if STATE and (#STATE == STATE_BYTES or #STATE == SETTLING_BYTES) and sub(STATE, 1, 2) == '!\0' then
  local partitions
  EPOCH, HEAD, FLOOR_K, FLOOR_T, CLEAR, LONGEST, PROCESS, partitions = unbox('>I8I8I8I8I8I8I8I2', STATE, 2)
  if partitions ~= PARTITIONS then
    return redis.error_reply((partitions == BURIED and 'SORABURIED ' or 'SORACOUNT ') .. partitions)
  end
  counted = true
  ASK[1] = sub(STATE, 1, MARK_BYTES)
  FOUND = scores(K, ASK)
  whole = FOUND[1] and (RUN == 0 or RUN == PROCESS)
  if #STATE == SETTLING_BYTES then
    SETTLES = sub(STATE, STATE_BYTES + 1)
    APPENDING = APPENDING or unbox('>I8', SETTLES) <= NOW
  end
end

local shown_here = SHOWN_EPOCH == EPOCH
if not whole or APPENDING or not shown_here and SHOWN_EPOCH ~= 0 or shown_here and SHOWN ~= HEAD then
  local X = BASE .. 'x'

  -- known tells whether the ledger left an epoch, or was shown it.
  local function known(epoch) return tonumber(try('ZSCORE', X, text(epoch))) end

  -- expire has a ledger that stores nothing expire if nobody comes again. What is
  -- stored first takes that away: see sets.lua.
  local function expire()
    for _, key in ipairs({T, K, H, X}) do call('PEXPIRE', key, UNUSED_EXPIRY) end
  end

  -- mint starts a new life of the ledger. What it left and what it was shown
  -- is remembered, so that two callers cannot make each other mint for ever.
  local function mint()
    local past = {}
    if SHOWN_EPOCH ~= 0 then past[SHOWN_EPOCH] = true end
    HEAD = math.max(NOW, SHOWN + 1)
    PROCESS = RUN
    for _, set in ipairs({T, K, H}) do
      local member = try('ZRANGE', set, '0', '0')[1]
      if member and #member >= MARK_BYTES and sub(member, 1, 1) == '!' then
        local epoch, head = unbox('>I8I8', member, 2)
        past[epoch] = true
        HEAD = math.max(HEAD, head + 1)
        if RUN == 0 and set == T and #member >= STATE_BYTES then PROCESS = unbox('>I8', member, 50) end
      end
    end
    EPOCH = CANDIDATE
    while EPOCH == 0 or past[EPOCH] or known(EPOCH) do EPOCH = (EPOCH + 1) % 2 ^ 52 end

    call('UNLINK', T, K, H)
    for epoch in pairs(past) do
      if type(try('ZADD', X, text(NOW), text(epoch))) == 'table' then -- an error: of another type
        call('UNLINK', X)
        call('ZADD', X, text(NOW), text(epoch))
      end
    end
    try('ZREMRANGEBYRANK', X, 0, -LEFT_EPOCHS - 1)
    FLOOR_K, FLOOR_T, CLEAR, LONGEST = HEAD, HEAD, 0, 0
    if SETTLES == '' then
      -- What settles outlives the ledger. Its own mark says which set it is.
      local settling, last = try('ZRANGE', BASE .. 'w', '0', '1', 'WITHSCORES'), try('ZRANGE', BASE .. 'w', '-1', '-1', 'WITHSCORES')
      if settling[3] and #settling[1] == 9 then
        SETTLES = pack('>I8I8', settling[4], last[2]) .. sub(settling[1], 2)
      end
    end
    STATE = compose(EPOCH, HEAD, FLOOR_K, FLOOR_T, CLEAR, LONGEST, PROCESS, PARTITIONS)
    local mark, head = sub(STATE, 1, MARK_BYTES), text(HEAD)
    call('ZADD', H, '-1', mark, head, 'p' .. head)
    call('ZADD', K, '-1', mark)
    call('ZADD', T, '-1', STATE)
    if call('EXISTS', BASE .. 'd') == 0 then expire() end
    MINTED, WROTE, RESET = true, true, SHOWN_EPOCH ~= 0
  end

  -- foreign tells whether what is shown belongs to another history than the
  -- ledger's, which is whole as far as t and k go. It sets RESET if the ledger
  -- cannot tell what came after it.
  local function foreign()
    if shown_here and SHOWN > HEAD then return true end
    local behind = shown_here and SHOWN < HEAD
    if behind or APPENDING then
      local found = scores(H, {sub(STATE, 1, MARK_BYTES), 'p' .. text(SHOWN)})
      if not found[1] then return true end
      if behind and SHOWN < FLOOR_K then
        RESET = true -- older than the history
      elseif behind and not found[2] then
        return true -- never issued
      end
    end
    if SHOWN_EPOCH ~= 0 and not shown_here then
      RESET = true
      return not known(SHOWN_EPOCH)
    end
    return false
  end

  local other = not whole or foreign()
  if other then
    --@include later

    for _, set in ipairs({T, K, H, BASE .. 'w'}) do
      if later(set, set == BASE .. 'w' and LATER_SETTLING or 255) then return redis.error_reply('SORALATER ' .. set) end
    end
  end
  if GUEST then
    local found = scores(H, {whole and sub(STATE, 1, MARK_BYTES) or ''})
    if not whole or not found[1] then return redis.error_reply('SORAGUEST the ledger is to be begun anew') end
    RESET = other or RESET
  elseif other then
    -- How many partitions there are stands in another slot, so it cannot be looked
    -- up here. What the ledger itself does not say was looked up just before this.
    if not counted and NOW - LOOKED_UP > LOOKED_UP_FOR then return redis.error_reply('SORANUMBER') end
    mint()
  end
end
if SETTLES ~= '' then
  --@include settle
end
