-- list: some of the names (see schemas.lua) whose live entries carry a tag.
-- ARGV: 2 tag, 3 bucket to go on from, 4 where in its set, 5 what to spend.
-- Answers the bucket to go on from (nothing: done); then where in its set, and the
-- names.

--@include ledger

local ASK = {''}

--@include open
--@include buckets

local tag = ARGV[2]
local from, from_ends, scan = start(ARGV[3], ARGV[4])
local seen = {}
MORE[2] = ''
local bucket
bucket, MORE[2] = step_over(tag, from, from_ends, scan, tonumber(ARGV[5]), function(keys, within)
  if not keys then return end
  local latest, spent = records(keys), 0
  for i, key in ipairs(keys) do
    local found, keep, tags = judge(key, latest[i])
    spent = spent + cost(tags)
    if found == LIVE and not seen[key] and belongs(keep, tags, within, tag) then
      seen[key] = true
      MORE[#MORE + 1] = key
    end
  end
  return spent
end)
BODY = place(bucket)

--@include answer
