-- Appending to the ledger, and forgetting what nobody can need any more.

-- add writes score and member pairs in commands of bounded length.
local function add(set, pairs_)
  for from = 1, #pairs_, CHUNK do
    call('ZADD', set, unpack(pairs_, from, math.min(from + CHUNK - 1, #pairs_)))
  end
end

-- record_at returns the position of the record of a rank, or nil.
local function record_at(set, rank)
  return tonumber(call('ZRANGE', set, rank + 1, rank + 1, 'WITHSCORES')[2])
end

-- newest_by returns the newest position of a set that is not after a time.
local function newest_by(set, time)
  return tonumber(call('ZRANGE', set, text(time), '(0', 'BYSCORE', 'REV', 'LIMIT', '0', '1', 'WITHSCORES')[2])
end

-- later and sooner are max and min, where nil stands for no position.
local function later(a, b) return not a and b or not b and a or math.max(a, b) end
local function sooner(a, b) return not b and a or math.min(a, b) end

-- over returns how many records a set has beyond its cap, once it is beyond by
-- enough that trimming is worth while.
local function over(set, cap)
  local excess = call('ZCARD', set) - 1 - cap
  return excess > math.min(512, math.floor(cap / 8)) and excess
end

-- trim forgets key records and history that are older than the retention or
-- over the cap, and tag records that nothing stored can still be killed by. No
-- call removes much more than step records, so that Redis is never held long;
-- the floors tell how far it came.
local function trim(step)
  local floor
  if NOW - FLOOR_K > AGE * 9 / 8 then floor = newest_by(H, NOW - AGE) end
  local excess = over(K, KEY_RECORDS)
  if excess then floor = later(floor, record_at(K, excess - 1)) end
  excess = over(H, KEY_RECORDS)
  if excess then floor = later(floor, record_at(H, excess)) end
  if floor and floor > FLOOR_K then
    FLOOR_K = sooner(sooner(floor, record_at(K, step)), record_at(H, step))
    call('ZREMRANGEBYSCORE', K, '(0', text(FLOOR_K))
    call('ZREMRANGEBYSCORE', H, '(0', '(' .. text(FLOOR_K))
  end

  floor = nil
  if NOW - FLOOR_T > (LONGEST + AGE) * 9 / 8 then floor = newest_by(T, NOW - LONGEST - AGE) end
  excess = over(T, TAG_RECORDS)
  if excess then floor = later(floor, record_at(T, excess - 1)) end
  if floor then
    FLOOR_T = math.max(FLOOR_T, sooner(floor, record_at(T, step)))
    call('ZREMRANGEBYSCORE', T, '(0', text(FLOOR_T))
  end
end

-- append records targets at a new position: tags and keys as members of t and
-- k, and everything. It returns the head that came before. The state, which all
-- else is compared with, is written last.
local function append(tags, keys, everything)
  local previous, old = HEAD, STATE
  trim(math.max(1000, 2 * (#tags + #keys)))
  HEAD = math.max(HEAD + 1, NOW)
  if everything then CLEAR = HEAD end
  STATE = compose(EPOCH, HEAD, FLOOR_K, FLOOR_T, CLEAR, LONGEST, PROCESS, PARTITIONS)
  local old_mark, mark, position = sub(old, 1, MARK_BYTES), sub(STATE, 1, MARK_BYTES), text(HEAD)

  call('ZREM', H, old_mark)
  call('ZADD', H, position, 'p' .. position, '-1', mark)

  local records = {}
  for _, key in ipairs(keys) do
    records[#records + 1] = position
    records[#records + 1] = key
  end
  records[#records + 1] = '-1'
  records[#records + 1] = mark
  call('ZREM', K, old_mark)
  add(K, records)

  records = {}
  for _, tag in ipairs(tags) do
    records[#records + 1] = position
    records[#records + 1] = tag
  end
  records[#records + 1] = '-1'
  records[#records + 1] = STATE
  call('ZREM', T, old)
  add(T, records)
  WROTE = true
  return previous
end
