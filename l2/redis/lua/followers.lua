-- Forgetting who does not follow any more: see follow.lua. R is the hash.

-- forget_some looks at about so many of those who are registered, and forgets
-- those whose registrations have been over for some time. It returns how many that were,
-- whether there may be others, when the last of the rest is over, and how many it
-- looked at.
-- Where it begins to look is as good as random, so that in time all are met. If
-- that is at the end, it goes on from the beginning.
local function forget_some(time, most)
  local fields = try('HLEN', R)
  if type(fields) ~= 'number' then return 0, false, 0, 0 end
  local from = fields > most and text(NOW % 2 ^ 24) or '0'
  local page = try('HSCAN', R, from, 'COUNT', text(most))
  if page[1] == '0' and from ~= '0' and #page[2] < most then
    from = '0'
    page = try('HSCAN', R, from, 'COUNT', text(most))
  end
  if page.err then return 0, false, 0, 0 end
  local gone, last, some = {}, 0, page[2]
  for i = 1, #some, 2 do
    if some[i] ~= '!' and #some[i + 1] >= 16 then
      local version, bound, ends = unbox('>BI7I8', some[i + 1])
      local most_ends = NOW + bound + FOLLOWERS_SLACK
      if ends > most_ends and version == 0 then -- the clock was set back
        ends = most_ends
        call('UNLINK', BASE .. '!') -- a script that has written is not stopped
        call('HSET', R, some[i], pack('>I8I8', bound, ends))
      end
      if ends + time <= NOW then
        gone[#gone + 1] = some[i]
      else
        last = math.max(last, ends)
      end
    end
  end
  for i = 1, #gone, CHUNK do
    call('HDEL', R, unpack(gone, i, math.min(i + CHUNK - 1, #gone)))
  end
  return #gone, page[1] ~= '0' or from ~= '0', last, #some / 2
end
