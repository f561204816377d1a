-- number: how many partitions a namespace has. KEYS[1] holds it, in a slot of its
-- own: '1:', the version of the form, and the number; and while it is being
-- changed, for as long as that takes, '>' and the number that it is to become. It
-- expires when nobody has used the namespace for a while. What is lost is found
-- again from the ledgers: see numbers.go.
--
-- ARGV: 2 what to do: 'a' just ask, 'u' ask for one who uses it, 'c' change it; 3
-- what it must be then (empty: nothing, or what is no number), 4 what it becomes.
-- Answers the time, and what there is then.

local call, try = redis.call, redis.pcall
local name = KEYS[1]
local clock = call('TIME')
-- A replica refuses this. What is written after it needs no memory: a Redis
-- without any is to go on with the namespaces that it has.
call('UNLINK', name .. '!')
local held = try('GET', name)
if type(held) ~= 'string' then held = '' end
if ARGV[2] == 'c' and held == ARGV[3] then
  held = ARGV[4]
  call('SET', name, held)
end
if ARGV[2] ~= 'a' and string.find(held, '^1:%d+$') then call('PEXPIRE', name, NUMBER_EXPIRY) end
return {string.format('%.0f', clock[1] * 1000000 + clock[2]), held}
