-- explain: what is stored under a key, dead or alive. ARGV: 2 key.
-- Answers the verdict, the killing record's position and the number of the tag
-- that it names (0: none); whether the key is leased, the lease's stamp and
-- end; then the bytes stored, if they are a string.

local key = ARGV[2]
local t, k = t_members(), k_members()
k[#k + 1] = 'k' .. key
local raw = redis.pcall('GET', BASE .. 'e:' .. key)
local entry
if type(raw) == 'string' then
  entry = parse(raw, key, t)
end
t = scores(T, t)
k = scores(K, k)
local refused = open(t, k)
if refused then return refused end

local found, position, index = CORRUPT, 0, 0
if entry then
  found, position, index = verdict(entry, t, k[K_RESERVED + 1])
elseif not raw then
  found = ABSENT
end
local holder, stamp, ends, epoch = lease_of(key)
local leased = holder and binding(stamp, epoch)
local result = answer(pack('>BI8I2BI8I8', found, position or 0, index and index - T_RESERVED or 0,
  leased and 1 or 0, leased and stamp or 0, leased and ends or 0))
if type(raw) == 'string' then result[#result + 1] = raw end
return result
