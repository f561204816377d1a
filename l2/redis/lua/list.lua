-- list: about a step of the keys whose live entries carry a tag.
-- ARGV: 2 tag, 3 bucket to go on from, 4 where in its set, 5 step.
-- Answers the bucket to go on from (zero: done); then where in its set, and the
-- keys.

local tag = ARGV[2]
local exponent, number = unpack_bytes('>BI8', ARGV[3])
local from = exponent > 0 and exponent .. ':' .. text(number) or ''
local bucket, scan = walk_buckets(tag, from, number * 2 ^ exponent, ARGV[4], tonumber(ARGV[5]))
local refused = judge_all()
if refused then return refused end

local result = answer(place(bucket))
result[#result + 1] = scan
local seen = {}
for _, c in ipairs(candidates) do
  if c.verdict == LIVE and not seen[c.key] and belongs(c, tag) then
    seen[c.key] = true
    result[#result + 1] = c.key
  end
end
return result
