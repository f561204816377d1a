-- Appending to the ledger, and forgetting what nobody can need any more.

-- add writes score and member pairs in commands of bounded length.
local function add(set, pairs_)
  for from = 1, #pairs_, CHUNK do
    redis.call('ZADD', set, unpack(pairs_, from, math.min(from + CHUNK - 1, #pairs_)))
  end
end

-- score_at returns the score of the member of a rank, not counting the members
-- reserved, or nil.
local function score_at(set, reserved, rank)
  local found = redis.call('ZRANGE', set, reserved + rank, reserved + rank, 'WITHSCORES')
  return tonumber(found[2])
end

-- newest_by returns the newest position of a set that is not after a time.
local function newest_by(set, time)
  local found = redis.call('ZRANGE', set, text(time), '(0', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
  return tonumber(found[2])
end

-- later and sooner are max and min over positions that may be nil.
local function later(a, b) return not a and b or not b and a or a and math.max(a, b) end
local function sooner(a, b) return not b and a or a and math.min(a, b) end

-- over returns how many members a set has beyond its cap, once it is beyond by
-- enough that trimming is worth while.
local function over(set, reserved, cap)
  local excess = redis.call('ZCARD', set) - reserved - cap
  return excess > math.min(512, math.floor(cap / 8)) and excess
end

-- trim forgets key records and history that are older than the retention or
-- over the cap, and tag records that nothing stored can still be killed by. No
-- call removes much more than step records, so that Redis is never held long;
-- the floor tells how far it came.
local function trim(step)
  local floor
  if NOW - FLOOR_K > AGE * 9 / 8 then floor = newest_by(H, NOW - AGE) end
  local excess = over(K, K_RESERVED, KEY_RECORDS)
  if excess then floor = later(floor, score_at(K, K_RESERVED, excess - 1)) end
  excess = over(H, K_RESERVED, KEY_RECORDS)
  if excess then floor = later(floor, score_at(H, K_RESERVED, excess)) end
  if floor and floor > FLOOR_K then
    floor = sooner(floor, score_at(K, K_RESERVED, step))
    floor = sooner(floor, score_at(H, K_RESERVED, step))
    redis.call('ZREMRANGEBYSCORE', K, '(0', text(floor))
    redis.call('ZREMRANGEBYSCORE', H, '(0', '(' .. text(floor))
    FLOOR_K = math.max(FLOOR_K, floor)
  end

  floor = nil
  if NOW - FLOOR_T > (LONGEST + AGE) * 9 / 8 then floor = newest_by(T, NOW - LONGEST - AGE) end
  excess = over(T, T_RESERVED, TAG_RECORDS)
  if excess then floor = later(floor, score_at(T, T_RESERVED, excess - 1)) end
  if floor then
    floor = sooner(floor, score_at(T, T_RESERVED, step))
    redis.call('ZREMRANGEBYSCORE', T, '(0', text(floor))
    FLOOR_T = math.max(FLOOR_T, floor)
  end
end

-- append records targets at a new position: tags and keys as members of t and
-- k, and everything. It returns the head that came before. The head of t, which
-- all else is compared with, is written last.
local function append(tags, keys, everything)
  local previous = HEAD
  trim(math.max(1000, 2 * (#tags + #keys)))
  HEAD = math.max(HEAD + 1, NOW)
  if everything then CLEAR = HEAD end
  local position, head = text(HEAD), text(-HEAD)
  local floor_k = text(-FLOOR_K)
  redis.call('ZADD', H, position, 'p' .. position, floor_k, '!f', head, '!h')
  local records = {}
  for _, key in ipairs(keys) do
    records[#records + 1] = position
    records[#records + 1] = key
  end
  for _, reserved in ipairs({floor_k, '!f', head, '!h'}) do records[#records + 1] = reserved end
  add(K, records)
  records = {}
  for _, tag in ipairs(tags) do
    records[#records + 1] = position
    records[#records + 1] = tag
  end
  for _, reserved in ipairs({text(-CLEAR), '!a', text(-FLOOR_T), '!f', head, '!h'}) do
    records[#records + 1] = reserved
  end
  add(T, records)
  WROTE = true
  return previous
end
