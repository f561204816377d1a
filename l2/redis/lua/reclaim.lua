-- reclaim: deletes, among about a step of the keys under a tag, what is dead,
-- and takes out of the tag's sets what no longer belongs there.
-- ARGV: 2 tag, 3 bucket to go on from, 4 where in its set, 5 step.
-- Answers the bucket to go on from (zero: done) and how many entries it
-- deleted; then where in its set.

local tag = ARGV[2]
local exponent, number = unpack_bytes('>BI8', ARGV[3])
local from = exponent > 0 and exponent .. ':' .. text(number) or ''
local bucket, scan, finished = walk_buckets(tag, from, number * 2 ^ exponent, ARGV[4], tonumber(ARGV[5]))
local refused = judge_all()
if refused then return refused end

local deleted = reclaim()
for _, done in ipairs(finished) do
  if redis.call('EXISTS', done.set) == 0 then drop(done.name, tag) end
end
local result = answer(place(bucket) .. pack('>I8', deleted))
result[#result + 1] = scan
return result
