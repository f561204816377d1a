-- Followers: who may trust what it keeps of the partition in its own memory.
-- They are the fields of a hash:
--
--   r  '!'        epoch, and since when, in it, the list is whole
--      'n'..name  bound, until when the registration stands
--
-- After what all scripts share, ARGV[1] holds whether the caller wants to know
-- who is registered, the caller's bound, and its name (empty: it does not
-- register). If it wants to know, the next element of the answer holds for how
-- long the list has been whole, and of each member bound, length of name, name.
--
-- This runs after the work is done, so that what it writes does not let through
-- what a Redis without memory refuses. It is itself let through: a script that
-- has written is not stopped, and PERSIST needs no memory.

local R = BASE .. 'r'
local wants, bound = unbox('>BI8', ARGV[1], COMMON_BYTES + 1)
local name = sub(ARGV[1], COMMON_BYTES + 10)

-- ask is a reading command; of a key of another type, which is as good as lost,
-- it finds nothing.
local function ask(command, ...)
  local found = try(command, R, ...)
  if not found.err then return found end
  if not string.find(found.err, 'WRONGTYPE', 1, true) then error(found) end
  call('UNLINK', R)
  return {}
end

local function set(fields)
  if #fields == 0 then return end
  call('PERSIST', T)
  call('HSET', R, unpack(fields))
  call('PEXPIRE', R, FOLLOWERS_EXPIRY)
  WROTE = true
end

local function since(born) return pack('>I8I8', EPOCH, born) end

-- The list is whole from its birth on: when it is found missing, and when the
-- ledger has taken a new epoch, for what cost the ledger its records may have
-- cost the list a member.
local fields, known = {}, ask('HMGET', '!', 'n' .. name)
local epoch, born = 0, 0
if known[1] and #known[1] == 16 then epoch, born = unbox('>I8I8', known[1]) end
if epoch ~= EPOCH or born > NOW then
  born = NOW
  fields = {'!', since(NOW)}
end

-- A registration is renewed when half of the slack is used up, or at once for a
-- larger bound. A smaller bound waits for that too: by then no answer that was
-- asked for with the larger one is trusted any longer than the smaller one says.
if name ~= '' then
  local last, ends = 0, 0
  if known[2] and #known[2] == 16 then last, ends = unbox('>I8I8', known[2]) end
  if last < bound or ends - NOW < bound + FOLLOWERS_SLACK / 2 then
    fields[#fields + 1] = 'n' .. name
    fields[#fields + 1] = pack('>I8I8', bound, NOW + bound + FOLLOWERS_SLACK)
  end
end
set(fields)

if wants == 1 then
  local all, gone, listed = ask('HGETALL'), {}, {}
  fields = {}
  for i = 1, #all, 2 do
    local field, value = all[i], all[i + 1]
    if sub(field, 1, 1) == 'n' then
      local last, ends = 0, 0
      if #value == 16 then
        last, ends = unbox('>I8I8', value)
      else -- damaged: as good as lost
        born = NOW
        fields[1], fields[2] = '!', since(NOW)
      end
      if ends <= NOW then
        gone[#gone + 1] = field
      else
        listed[#listed + 1] = pack('>I8B', last, #field - 1) .. sub(field, 2)
        if ends > NOW + last + FOLLOWERS_SLACK then -- the clock was set back
          fields[#fields + 1] = field
          fields[#fields + 1] = pack('>I8I8', last, NOW + last + FOLLOWERS_SLACK)
        end
      end
    end
  end
  if #gone > 0 then call('HDEL', R, unpack(gone, 1, math.min(#gone, CHUNK))) end
  set(fields)
  MORE[#MORE + 1] = pack('>I8', NOW - born) .. table.concat(listed)
end
