-- Walking over stored entries in small steps.

-- judge applies the rule to the entry under a name. It returns the verdict, until
-- when the entry is kept, and its tags. Only the beginning of an entry is read,
-- and more of it if that does not hold the tags, so that large values are not
-- copied.
local function judge(key, record, last)
  if byte(key) == 255 and not last then
    --@include schemas

    if not schemas_of(key).own then
      return call('EXISTS', BASE .. 'e:' .. key) == 0 and ABSENT or EXPIRED
    end
  end
  local raw = try('GETRANGE', BASE .. 'e:' .. key, '0', last or PREFIX_END)
  if raw == '' then return ABSENT end
  if type(raw) ~= 'string' then return CORRUPT end
  --@include judge

  if found == CORRUPT and #raw == PREFIX_BYTES then return judge(key, record, LARGE_END) end
  return found, keep and written + keep, tags
end

-- step_over looks at keys of a tag, or without one of the whole partition, until
-- that has cost about as much as step says, from a place on: a bucket's name in its
-- index ('' to begin with), its end, and where in its set. For each page of a
-- bucket's set it calls look with the keys and the bucket, which returns what that
-- cost; with no keys when the bucket is finished. It returns the place to go on
-- from; at the end the bucket is nil.
-- Buckets go in the order of their ends and then their names, which no refill
-- can move an entry back in.
local function step_over(tag, from, from_ends, scan, step, look)
  local index, set, most = BASE .. 'b:' .. tag, BASE .. 's:', 1000
  local suffix = ':' .. tag
  if tag == '' then index, suffix, most = BASE .. 'd', '', 16 end
  -- Many buckets can end at the same time, so a place is found by its name.
  local rank = from ~= '' and try('ZRANK', index, from)
  if type(rank) ~= 'number' then
    rank = try('ZCOUNT', index, '-inf', '(' .. text(math.max(from_ends, math.floor(NOW / 1000))))
    if type(rank) ~= 'number' then return nil, '0' end -- of another type
  end
  repeat
    local listed = call('ZRANGE', index, text(rank), text(rank + most - 1), 'WITHSCORES')
    rank = rank + most
    for i = 1, #listed, 2 do
      local bucket = {name = listed[i], ends = tonumber(listed[i + 1]), set = set .. listed[i] .. suffix}
      if string.find(bucket.name, '^%d+:%d+') and (bucket.ends > from_ends or bucket.name >= from) then
        if bucket.name ~= from then scan = '0' end
        repeat
          if step <= 0 then return bucket, scan end
          local page = try('SSCAN', bucket.set, scan, 'COUNT', text(math.ceil(math.min(step, PAGE_KEYS))))
          if page.err then -- of another type
            call('UNLINK', bucket.set)
            page = {'0', {}}
          end
          scan = page[1]
          step = step - math.max(#page[2] > 0 and look(page[2], bucket) or 0, 4)
        until scan == '0'
        look(nil, bucket)
      end
    end
  until #listed == 0
  return nil, '0'
end

-- cost is what it costs to judge a key: what it takes by itself is 1, and each of
-- its entry's tags a fifth of that.
local function cost(tags) return tags and 1 + #tags / 5 or 1 end

-- records returns the scores of the records of the keys of names.
local function records(keys)
  local members = {}
  for i, key in ipairs(keys) do
    if byte(key) == 255 then key = sub(key, string.find(key, '\255', 2, true) + 1) end
    members[i] = 'k' .. key
  end
  return #keys > 0 and scores(K, members) or {}
end

-- belongs tells whether a live entry is to be listed under a bucket it was found
-- in: it carries the tag, and has not moved on to a bucket that ends later,
-- where the walk comes yet.
local function belongs(keep, tags, bucket, tag)
  if math.ceil(keep / 1000) > bucket.ends then return false end
  if tag == '' then return #tags == 0 end
  for _, carried in ipairs(tags) do
    if carried == 't' .. tag then return true end
  end
  return false
end

-- start reads where to go on from an argument and the next: the bucket, and where
-- in its set; place packs it. The tag of a bucket of d follows its number.
local function start(at, scan)
  if at == '' then return '', 0, '0' end
  local exponent, number = unbox('>BI8', at)
  return exponent .. ':' .. text(number) .. sub(at, 10), number * 2 ^ exponent, scan
end

local function place(bucket)
  if not bucket then return '' end
  local exponent, number, rest = string.match(bucket.name, '^(%d+):(%d+)(.*)$')
  return pack('>BI8', tonumber(exponent), tonumber(number)) .. rest
end
