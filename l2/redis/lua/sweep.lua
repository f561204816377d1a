-- sweep: removes some of the tag sets' buckets that have ended. Answers whether
-- there are more.

--@include ledger

local ASK = {''}

--@include open
--@include sets

local due = call('ZRANGE', BASE .. 'd', '(0', text(NOW / 1000), 'BYSCORE', 'LIMIT', '0', SWEEP_LIMIT)
for _, name in ipairs(due) do
  local bucket, tag = string.match(name, '^(%d+:%d+):(.*)$')
  if bucket then
    drop(bucket, tag)
  else
    call('ZREM', BASE .. 'd', name)
  end
end
BODY = pack('>B', #due == SWEEP_STEP and 1 or 0)

--@include answer
