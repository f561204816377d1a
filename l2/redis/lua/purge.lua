-- purge: deletes the entry under a key if its bytes are still those whose SHA-1
-- is given. ARGV: 2 key, 3 SHA-1 in hexadecimal.

local name = string.sub(KEYS[1], 1, -2) .. 'e:' .. ARGV[2]
local raw = redis.pcall('GET', name)
if type(raw) == 'string' and redis.sha1hex(raw) == ARGV[3] then
  return redis.call('UNLINK', name)
end
return 0
