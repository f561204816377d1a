-- Followers: who may trust what it keeps of the partition in its own memory.
-- They are the fields of a hash:
--
--   r  '!'        epoch, and since when, in it, the list is whole
--      'n'..name  bound, until when the registration stands
--
-- The first byte of each value, 0, is the version of its form. A later version's
-- has the same two numbers there, and more after them: it counts, and is left as
-- it is.
--
-- After what all scripts share, ARGV[1] holds whether the caller wants to know
-- who is registered, the caller's bound, and its name (empty: it does not
-- register). If it wants to know, the next element of the answer holds for how
-- long the list has been whole, and of each member bound, length of name, name.
--
-- This runs after the work is done, so that what it writes does not let through
-- what a Redis without memory refuses. It is itself let through: a script that
-- has written is not stopped, and UNLINK needs no memory.

local R = BASE .. 'r'
local wants, bound = unbox('>BI8', ARGV[1], COMMON_BYTES + 1)
local name = sub(ARGV[1], COMMON_BYTES + 10)

local known = try('HMGET', R, '!', 'n' .. name)
if known.err then
  if not string.find(known.err, 'WRONGTYPE', 1, true) then return known end
  call('UNLINK', R) -- of another type: as good as lost
  known = {}
end

-- The list is whole from its birth on: when it is found missing, and when the
-- ledger has taken a new epoch, for what cost the ledger its records may have
-- cost the list a member.
local epoch, born = 0, 0
if known[1] and #known[1] >= 16 then epoch, born = unbox('>xI7I8', known[1]) end
local whole = epoch == EPOCH and born <= NOW
if not whole then born = NOW end

-- A registration is renewed when half of the slack is used up, or at once for a
-- larger bound. A smaller bound waits for that too: by then no answer that was
-- asked for with the larger one is trusted any longer than the smaller one says.
local stands = name == ''
if not stands and known[2] and #known[2] == 16 then
  local last, ends = unbox('>I8I8', known[2])
  stands = last >= bound and ends - NOW >= bound + FOLLOWERS_SLACK / 2 and ends - NOW <= last + FOLLOWERS_SLACK
end

if wants == 1 or not whole or not stands then
  local fields = {}
  local function set(field, first, second)
    fields[#fields + 1] = field
    fields[#fields + 1] = pack('>I8I8', first, second)
  end
  local function write()
    if #fields == 0 then return end
    call('UNLINK', BASE .. '!')
    for from = 1, #fields, CHUNK do
      call('HSET', R, unpack(fields, from, math.min(from + CHUNK - 1, #fields)))
    end
    call('PEXPIRE', R, FOLLOWERS_EXPIRY)
    WROTE, fields = true, {}
  end
  if not whole then set('!', EPOCH, NOW) end
  if not stands then
    -- Whoever registers also sees to it that former ones go. While there is much to
    -- forget it registers for just so long that it comes again with its next request.
    --@include followers

    local slack = FOLLOWERS_SLACK
    if known[1] then
      local gone, others, _, looked = forget_some(0, 64)
      if others and (gone > looked / 4 or looked < 8) then
        gone, others = forget_some(0, CHUNK)
        if others and gone > 0 then slack = slack / 2 end
      end
    end
    set('n' .. name, bound, NOW + bound + slack)
  end
  write()
  if not stands and call('EXISTS', BASE .. 'd') == 0 then
    -- A ledger that stores nothing was born to expire, and stays while it is
    -- followed. If an older version took its expiry away, it stays as a whole.
    local expires = call('PTTL', T) >= 0
    for _, key in ipairs({T, K, H, BASE .. 'x'}) do
      if expires then call('PEXPIRE', key, UNUSED_EXPIRY) else call('PERSIST', key) end
    end
  end

  if wants == 1 then
    local all, gone, listed = call('HGETALL', R), {}, {}
    for i = 1, #all, 2 do
      local field, value = all[i], all[i + 1]
      if field ~= '!' then
        local version, last, ends = 0, 0, 0
        if #value >= 16 then version, last, ends = unbox('>BI7I8', value) end
        if #value < 16 or version == 0 and #value > 16 or version > 0 and last > MAX_BOUND then -- damaged: as good as lost
          version, last, ends = 0, 0, 0
          born = NOW
          set('!', EPOCH, NOW)
        end
        if ends <= NOW then
          gone[#gone + 1] = field
        else
          listed[#listed + 1] = pack('>I8B', last, #field - 1) .. sub(field, 2)
          local most = NOW + last + FOLLOWERS_SLACK
          if ends > most and version == 0 then set(field, last, most) end -- the clock was set back
        end
      end
    end
    if #gone > 0 then call('HDEL', R, unpack(gone, 1, math.min(#gone, CHUNK))) end
    write()
    MORE[#MORE + 1] = pack('>I8', NOW - born) .. table.concat(listed)
  end
end
