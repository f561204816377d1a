-- Walking over stored entries in small steps.

-- judge applies the rule to the entry of a key. It returns the verdict, until
-- when the entry is kept, and its tags. Only the beginning of an entry is read,
-- and more of it if that does not hold the tags, so that large values are not
-- copied.
local function judge(key, record, last)
  local raw = try('GETRANGE', BASE .. 'e:' .. key, '0', last or PREFIX_END)
  if raw == '' then return ABSENT end
  if type(raw) ~= 'string' then return CORRUPT end
  --@include judge

  if found == CORRUPT and #raw == PREFIX_BYTES then return judge(key, record, LARGE_END) end
  return found, keep, tags
end

-- step_over looks at about as many keys of a tag as step says, from a place on:
-- a bucket ('' to begin with), its end, and where in its set. For each page of
-- a bucket's set it calls look with the keys, the scores of their records and
-- the bucket; with no keys when the bucket is finished. It returns the place to
-- go on from; at the end the bucket is nil.
-- Buckets go in the order of their ends and then their names, which no refill
-- can move an entry back in.
local function step_over(tag, from, from_ends, scan, step, look)
  local listed = try('ZRANGE', BASE .. 'b:' .. tag,
    text(math.max(from_ends, math.floor(NOW / 1000))), '+inf', 'BYSCORE', 'WITHSCORES')
  for i = 1, #listed, 2 do
    local bucket = {name = listed[i], ends = tonumber(listed[i + 1])}
    bucket.set = BASE .. 's:' .. bucket.name .. ':' .. tag
    if bucket.ends > from_ends or bucket.name >= from then
      if bucket.name ~= from then scan = '0' end
      repeat
        if step <= 0 then return bucket, scan end
        local page = try('SSCAN', bucket.set, scan, 'COUNT', text(step))
        if page.err then -- of another type
          call('UNLINK', bucket.set)
          page = {'0', {}}
        end
        scan = page[1]
        if #page[2] > 0 then look(page[2], bucket) end
        step = step - math.max(#page[2], 8)
      until scan == '0'
      look(nil, bucket)
    end
  end
  return nil, '0'
end

-- records returns the scores of the records of keys.
local function records(keys)
  local members = {}
  for i, key in ipairs(keys) do members[i] = 'k' .. key end
  return #keys > 0 and scores(K, members) or {}
end

-- belongs tells whether a live entry is to be listed under a bucket it was found
-- in: it carries the tag, and has not moved on to a bucket that ends later,
-- where the walk comes yet.
local function belongs(keep, tags, bucket, tag)
  if math.ceil(keep / 1000) > bucket.ends then return false end
  for _, carried in ipairs(tags) do
    if carried == 't' .. tag then return true end
  end
  return false
end

-- start reads where to go on, from ARGV[3] and ARGV[4]; place packs it.
local function start()
  local exponent, number = unbox('>BI8', ARGV[3])
  return exponent > 0 and exponent .. ':' .. text(number) or '', number * 2 ^ exponent, ARGV[4]
end

local function place(bucket)
  if not bucket then return pack('>BI8', 0, 0) end
  local exponent, number = string.match(bucket.name, '^(%d+):(%d+)$')
  return pack('>BI8', tonumber(exponent), tonumber(number))
end
