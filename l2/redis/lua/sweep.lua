-- sweep: does what is due by time in a ledger, in one small step: buckets that
-- have ended, records and history that nobody needs, followers that are gone. And
-- it ends the ledger, all of it in this one step, when nothing can need it:
-- nothing that was ever stored is kept any more, nothing settles, nobody has been
-- registered for as long as a lease lasts, and it has been quiet for a while.
-- Who used it still would find a new epoch, which is safe at any time.
--
-- It begins no ledger and takes no new epoch, and asks for no certain number of
-- partitions. Answers 1 if there is no ledger any more, or else 0, and in how many
-- milliseconds to look again (0: there is more to do).

--@include ledger

local ASK = {''}
GUEST = true
local D, W, R = BASE .. 'd', BASE .. 'w', BASE .. 'r'

--@include later

for _, set in ipairs({T, K, H, W}) do
  if later(set, set == W and LATER_SETTLING or 255) then
    return {0, LOOK_MOST} -- that version looks after it
  end
end

local state = try('ZRANGE', T, '0', '0')[1]
local sound = state and (#state == STATE_BYTES or #state == SETTLING_BYTES) and sub(state, 1, 2) == '!\0'
local more, look, quiet = false, LOOK_MOST * 1000, true
if sound then
  local mark = sub(state, 1, MARK_BYTES)
  PARTITIONS = unbox('>I2', state, 58)
  if PARTITIONS == BURIED then return {0, LOOK_MOST} end -- see bury.lua: it is to stand for as long as it says
  sound = (RUN == 0 or RUN == unbox('>I8', state, 50)) and scores(K, {mark})[1] and scores(H, {mark})[1]
end
if sound then
  --@include open
  --@include append

  local old, floors, longest = STATE, FLOOR_K + FLOOR_T, LONGEST
  if try('ZCARD', D) == 0 then LONGEST = 0 end -- nothing is stored that a tag's record could kill
  local function held() return call('ZCARD', K) + call('ZCARD', H) + call('ZCARD', T) end
  local before = held()
  trim(TRIM_STEP)
  local after = held()
  if FLOOR_K + FLOOR_T ~= floors or LONGEST ~= longest then
    STATE = compose(EPOCH, HEAD, FLOOR_K, FLOOR_T, CLEAR, LONGEST, PROCESS, PARTITIONS)
    local old_mark, mark = sub(old, 1, MARK_BYTES), sub(STATE, 1, MARK_BYTES)
    for _, set in ipairs({H, K}) do
      call('ZREM', set, old_mark)
      call('ZADD', set, '-1', mark)
    end
    call('ZREM', T, old)
    call('ZADD', T, '-1', STATE)
  end
  more = before - after >= TRIM_STEP / 2
  -- What is left beside the three reserved members and the newest position.
  if after > 4 then look = math.min(look, AGE * 9 / 8) end
  -- A head that is far ahead was given out before the clock was set back.
  if HEAD <= NOW + QUIET and HEAD + QUIET > NOW then
    quiet = false
    look = math.min(look, HEAD + QUIET - NOW)
  end
  if SETTLES ~= '' then look = math.min(look, unbox('>I8', SETTLES) - NOW) end
end

--@include sets
--@include followers

call('ZREMRANGEBYSCORE', D, '(' .. text(NOW / 1000 + BUCKETS_MOST), '+inf') -- the clock was set back
more = ended(SWEEP_STEP) == SWEEP_STEP or more
local first = call('ZRANGE', D, '0', '0', 'WITHSCORES')[2]
if first then look = math.min(look, first * 1000 - NOW) end

-- Of a ledger that is not whole, nobody knows but the set itself what settles.
local last_settles = tonumber(try('ZRANGE', W, '-1', '-1', 'WITHSCORES')[2])
local settles = SETTLES ~= '' or last_settles and last_settles > NOW and last_settles <= NOW + 2 * MAX_SETTLE
if settles and SETTLES == '' then look = math.min(look, last_settles - NOW) end

local gone, others, last = forget_some(MAX_LEASE, CHUNK)
more = more or others and gone > 0
if last > 0 and not first then look = math.min(look, last + MAX_LEASE - NOW) end

if quiet and not more and not others and not first and not settles and last == 0 then
  call('UNLINK', T, K, H, BASE .. 'x', R, W, D)
  return {1, 0}
end
return {0, more and 0 or math.max(LOOK_LEAST, math.ceil(look / 1000))}
