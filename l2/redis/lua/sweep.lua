-- sweep: removes some of the tag sets' buckets that have ended. Answers whether
-- there are more.

local STEP = 32

local refused = open(scores(T, t_members()), scores(K, k_members()))
if refused then return refused end

local due = redis.call('ZRANGE', BASE .. 'd', '(0', text(NOW / 1000), 'BYSCORE', 'LIMIT', 0, STEP)
for _, name in ipairs(due) do
  local bucket, tag = string.match(name, '^(%d+:%d+):(.*)$')
  if bucket then
    drop(bucket, tag)
  else
    redis.call('ZREM', BASE .. 'd', name)
  end
end
return answer(pack('>B', #due == STEP and 1 or 0))
