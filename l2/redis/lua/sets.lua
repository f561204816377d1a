-- Tag sets: which keys carry a tag, in buckets by when their entries end.
-- Entries without tags carry the empty one, so that a walk meets every entry.
--
--   s:<exponent>:<number>:<tag>  set of keys; the bucket is 2^exponent
--                                milliseconds wide and ends at number widths
--   b:<tag>                      the tag's buckets: '<exponent>:<number>' = end
--   d                            all buckets: '<exponent>:<number>:<tag>' = end
--
-- A bucket stays in d until its end, even if nothing is left in it, and d does
-- not expire: so d tells until when the last of what was ever stored is kept.

-- unlist takes a bucket from its tag. UNLINK frees large sets in another thread.
local function unlist(bucket, tag)
  call('UNLINK', BASE .. 's:' .. bucket .. ':' .. tag)
  call('ZREM', BASE .. 'b:' .. tag, bucket)
end

-- outlive makes a key live at least until a time. Sets and indexes outlive their
-- buckets by SLACK: sweeping removes them long before, without holding Redis,
-- and the expiry is there for when nobody sweeps.
local function outlive(key, ends)
  local left = call('PTTL', key)
  if left < 0 or left < ends - NOW / 1000 then
    call('PEXPIREAT', key, text(ends))
  end
end

-- sure is call, but first deletes a key that turns out to be of another type.
local function sure(command, key, ...)
  local done = try(command, key, ...)
  if type(done) ~= 'table' or not done.err then return done end
  call('UNLINK', key)
  return call(command, key, ...)
end

-- ended drops some of the partition's buckets that have ended, the oldest first,
-- and returns how many.
local function ended(most)
  local due = sure('ZRANGE', BASE .. 'd', '(0', text(NOW / 1000), 'BYSCORE', 'LIMIT', '0', text(most))
  for _, name in ipairs(due) do
    local bucket, tag = string.match(name, '^(%d+:%d+):(.*)$')
    if bucket then unlist(bucket, tag) end
    call('ZREM', BASE .. 'd', name)
  end
  return #due
end

-- remember adds a key to a tag's bucket of width 2^exponent milliseconds that
-- ends when the entry has. Two commands, unless the bucket is new; then up to
-- two that have ended go, so that their number is bounded even if nobody sweeps.
local function remember(tag, key, exponent, keep)
  local width = 2 ^ exponent
  local number = math.ceil(math.ceil(keep / 1000) / width)
  local bucket, ends = exponent .. ':' .. text(number), number * width
  local set, index = BASE .. 's:' .. bucket .. ':' .. tag, BASE .. 'b:' .. tag
  if sure('SADD', set, key) == 0 then return end
  if sure('ZADD', index, 'NX', text(ends), bucket) == 0 then return end
  call('PEXPIREAT', set, text(ends + SLACK))
  if call('EXISTS', BASE .. 'd') == 0 then
    -- The first that is stored: a ledger without entries may be there to expire.
    for _, key in ipairs({T, K, H, BASE .. 'x'}) do call('PERSIST', key) end
  end
  sure('ZADD', BASE .. 'd', text(ends), bucket .. ':' .. tag)
  outlive(index, ends + SLACK)
  ended(2)
end
