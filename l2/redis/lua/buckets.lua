-- Walking over stored entries in small steps, judging each.

-- Entries are judged by their first bytes, so that large values are not copied.
local PREFIX_BYTES = 512

-- candidates are the keys that a step looks at, with what is known of each.
local candidates = {}
local t_names, k_names = t_members(), k_members()

local function consider(key, bucket)
  local raw = redis.pcall('GETRANGE', BASE .. 'e:' .. key, 0, PREFIX_BYTES - 1)
  local entry
  if raw ~= '' then
    entry = type(raw) == 'string' and parse(raw, key, t_names)
    if not entry and type(raw) == 'string' and #raw == PREFIX_BYTES then
      entry = parse(redis.call('GET', BASE .. 'e:' .. key), key, t_names)
    end
    entry = entry or CORRUPT
  end
  k_names[#k_names + 1] = 'k' .. key
  candidates[#candidates + 1] = {key = key, entry = entry, bucket = bucket}
end

-- judge_all opens the ledger and gives each candidate its verdict. It returns
-- an error reply if the ledger refuses the caller.
local function judge_all()
  local t, k = scores(T, t_names), scores(K, k_names)
  local refused = open(t, k)
  if refused then return refused end
  for i, c in ipairs(candidates) do
    if not c.entry then
      c.verdict = ABSENT
    elseif c.entry == CORRUPT then
      c.verdict = CORRUPT
    else
      c.verdict = verdict(c.entry, t, k[K_RESERVED + i])
    end
  end
end

-- belongs tells whether a candidate is listed under the bucket it was found in:
-- its entry carries the tag, and has not moved on to a bucket that ends later,
-- where the walk comes yet.
local function belongs(c, tag)
  if math.ceil(c.entry.keep / 1000) > c.bucket.ends then return false end
  for i = c.entry.first + 1, c.entry.first + c.entry.tags do
    if t_names[i] == 't' .. tag then return true end
  end
  return false
end

-- walk_buckets considers about step keys of a tag, from a place on: a bucket
-- ('' to begin with), its end, and where in its set. It returns the place to go
-- on from, a bucket of nil at the end, and the buckets it has finished.
-- Buckets go in the order of their ends and then their names, which no refill
-- can move an entry back in.
local function walk_buckets(tag, from, from_ends, scan, step)
  local listed = redis.pcall('ZRANGE', BASE .. 'b:' .. tag,
    text(math.max(from_ends, math.floor(NOW / 1000))), '+inf', 'BYSCORE', 'WITHSCORES')
  local finished = {}
  for i = 1, #listed, 2 do
    local bucket = {name = listed[i], ends = tonumber(listed[i + 1]), tag = tag}
    if bucket.ends > from_ends or bucket.name >= from then
      bucket.set = BASE .. 's:' .. bucket.name .. ':' .. tag
      if bucket.name ~= from then scan = '0' end
      repeat
        if step <= 0 then return bucket, scan, finished end
        local page = redis.pcall('SSCAN', bucket.set, scan, 'COUNT', step)
        if page.err then -- of another type
          redis.call('UNLINK', bucket.set)
          page = {'0', {}}
        end
        scan = page[1]
        for _, key in ipairs(page[2]) do consider(key, bucket) end
        step = step - math.max(#page[2], 8)
      until scan == '0'
      finished[#finished + 1] = bucket
    end
  end
  return nil, '0', finished
end

-- place packs where to go on.
local function place(bucket)
  if not bucket then return pack('>BI8', 0, 0) end
  local exponent, number = string.match(bucket.name, '^(%d+):(%d+)$')
  return pack('>BI8', tonumber(exponent), tonumber(number))
end

-- reclaim removes what is dead among the candidates, and from the sets what no
-- longer belongs there. Bytes that cannot be read here stay: they may be a
-- later version's. It returns how many entries it deleted.
local function reclaim()
  local dead, gone = {}, {}
  for _, c in ipairs(candidates) do
    local kept = c.verdict == CORRUPT
    if c.verdict == LIVE then
      kept = not c.bucket or belongs(c, c.bucket.tag)
    elseif c.verdict > CORRUPT then
      dead[#dead + 1] = BASE .. 'e:' .. c.key
    end
    if c.bucket and not kept then
      gone[c.bucket.set] = gone[c.bucket.set] or {}
      table.insert(gone[c.bucket.set], c.key)
    end
  end
  for from = 1, #dead, CHUNK do
    redis.call('UNLINK', unpack(dead, from, math.min(from + CHUNK - 1, #dead)))
    WROTE = true
  end
  for set, keys in pairs(gone) do
    for from = 1, #keys, CHUNK do
      redis.call('SREM', set, unpack(keys, from, math.min(from + CHUNK - 1, #keys)))
      WROTE = true
    end
  end
  return #dead
end
