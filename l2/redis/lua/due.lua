-- due: the index of all ledgers, by when somebody is to look after each. KEYS[1]
-- is a sorted set: '<namespace>/<index>' = when, in milliseconds.
-- ARGV: 2 what this answered before ('' at first), 3 how many ledgers to take;
-- then, of those that were taken, each with in how many milliseconds to look
-- again ('' if there is none any more).
-- Answers what to give back as ARGV[2], and the ledgers taken: nobody else takes
-- them within a minute. Who begins a ledger meanwhile enters it at another time,
-- by which it is known that it is not to be taken out.

local index = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function text(number) return string.format('%.1f', number) end

for i = 4, #ARGV, 2 do
  local at = redis.call('ZSCORE', index, ARGV[i])
  if at and text(tonumber(at)) == ARGV[2] then
    if ARGV[i + 1] == '' then
      redis.call('ZREM', index, ARGV[i])
    else
      redis.call('ZADD', index, text(now + ARGV[i + 1]), ARGV[i])
    end
  end
end

-- No times but these end in a half. One further ahead than any can be is of
-- before the clock was set back.
local held = text(now + HELD + 0.5)
local answer = {held}
local most = tonumber(ARGV[3])
local function take(from, to)
  if #answer > most then return end
  for _, ledger in ipairs(redis.call('ZRANGE', index, from, to, 'BYSCORE', 'LIMIT', '0', tostring(most - #answer + 1))) do
    redis.call('ZADD', index, held, ledger)
    answer[#answer + 1] = ledger
  end
end
if most > 0 then
  redis.call('ZREM', index, '') -- never there: it changes nothing, and a replica refuses it
  take('-inf', text(now))
  take('(' .. text(now + 2 * LOOK_MOST), '+inf')
end
return answer
