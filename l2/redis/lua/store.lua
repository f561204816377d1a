-- Storing an entry: its head, its lifetime and its tags' sets.

-- store writes an entry with its stamp. times is fresh and keep, in
-- microseconds from now, and the exponent of the width of its tags' buckets.
-- The entry is written first: it is what a Redis without memory refuses.
local function store(key, stamp, times, body, tags)
  local fresh, keep, exponent = unbox('>I8I8B', times)
  local head = 'sc\1\0' .. pack('>I8I8I8I8', EPOCH, stamp, NOW + fresh, NOW + keep)
  local sum = tonumber(sub(redis.sha1hex(head), 1, 8), 16)
  call('SET', BASE .. 'e:' .. key, head .. pack('>I4', sum) .. body, 'PX', text(math.ceil(keep / 1000)))
  call('DEL', BASE .. 'l:' .. key)
  WROTE = true
  if #tags == 0 then return end
  if keep > LONGEST then
    LONGEST = keep
    call('ZREM', T, STATE)
    STATE = compose(EPOCH, HEAD, FLOOR_K, FLOOR_T, CLEAR, LONGEST, PROCESS, PARTITIONS)
    call('ZADD', T, '-1', STATE)
  end
  for _, tag in ipairs(tags) do
    remember(tag, key, exponent, NOW + keep)
  end
end
