-- Storing an entry: its head, its lifetime and its tags' sets.

-- store writes an entry with its stamp. how is fresh and keep, in microseconds
-- from now, the exponent of the width of its tags' buckets, and whether body
-- names a staging key under which the entry already stands, with room for its
-- head; else body is the entry without the head.
-- The entry is written first: it is what a Redis without memory refuses, and then
-- nothing has happened and this is false. A staging key that is gone was refused
-- before, or had to make room.
local function store(key, stamp, how, body, tags)
  local fresh, keep, exponent, staged = unbox('>I8I8BB', how)
  local name, expiry = BASE .. 'e:' .. key, text(math.ceil(keep / 1000))
  local head = 'sc\2' .. pack('>I7I7I7I6I6', EPOCH, stamp, NOW, fresh, keep)
  head = head .. pack('>I4', tonumber(sub(redis.sha1hex(head), 1, 8), 16))
  if staged == 1 then
    if call('EXISTS', BASE .. body) == 0 then return false end
    call('RENAME', BASE .. body, name)
    call('SETRANGE', name, '0', head)
    call('PEXPIRE', name, expiry)
  else
    local done = try('SET', name, head .. body, 'PX', expiry)
    if done.err then
      if string.find(done.err, '^OOM') then return false end
      error(done)
    end
  end
  call('DEL', BASE .. 'l:' .. key, BASE .. 'o:' .. key)
  WROTE = true
  if #tags > 0 and keep > LONGEST then
    LONGEST = keep
    call('ZREM', T, STATE)
    STATE = compose(EPOCH, HEAD, FLOOR_K, FLOOR_T, CLEAR, LONGEST, PROCESS, PARTITIONS)
    call('ZADD', T, '-1', STATE)
  end
  for _, tag in ipairs(#tags > 0 and tags or {''}) do
    remember(tag, key, exponent, NOW + keep)
  end
  return true
end
