-- Leases, and what became of the last.
--
--   l:<name>  nonce, of which the second half says whose it is; epoch, stamp, and
--            when it runs out. The epoch's first byte, 0, is the version of the
--            form; a later one may have more at the end
--   o:<name>  while it is remembered that a load left nothing: the outcome, whose
--            load it was, since when and for how long

-- lease_of returns the nonce, stamp, end and epoch of the lease under a key
-- that has not run out, or nil. Of a later version's lease the nonce is empty, for
-- what it means is not known: it is nobody's here, and no other is given.
local function lease_of(key)
  local raw = try('GET', BASE .. 'l:' .. key)
  if type(raw) ~= 'string' or #raw < LEASE_BYTES then return nil end
  local version, epoch, stamp, ends = unbox('>BI7I8I8', raw, NONCE_BYTES + 1)
  if ends <= NOW then return nil end
  if version > 0 then return ends <= NOW + MAX_LEASE and '' or nil end
  if #raw > LEASE_BYTES then return nil end
  return sub(raw, 1, NONCE_BYTES), stamp, ends, epoch
end

-- failed_of returns whose load of a key has left nothing, if that is remembered.
local function failed_of(key)
  local raw = try('GET', BASE .. 'o:' .. key)
  if type(raw) ~= 'string' or #raw ~= OUTCOME_BYTES then return nil end
  local since, lasts = unbox('>I8I8', raw, HOLDER_BYTES + 2)
  -- The clock may have been set back.
  if since > NOW or NOW >= since + math.min(lasts, MOST_REMEMBER) then return nil end
  return sub(raw, 2, HOLDER_BYTES + 1)
end

-- holder_of returns whose a nonce is.
local function holder_of(nonce) return sub(nonce, -HOLDER_BYTES) end

-- finish ends a lease that leaves nothing, and remembers that for so long. The
-- deletion comes first: once a script has written, a Redis without memory lets
-- it finish, and what it then stores takes no more than the lease did.
local function finish(key, nonce, outcome, remember)
  call('DEL', BASE .. 'l:' .. key)
  WROTE = true
  if remember > 0 then
    call('SET', BASE .. 'o:' .. key, pack('>B', outcome) .. holder_of(nonce) .. pack('>I8I8', NOW, remember),
      'PX', text(math.ceil(remember / 1000)))
  end
end

-- binding tells whether a lease still keeps others from the key. One that the
-- rule has ended already (another epoch, everything invalidated) does not. Neither
-- does one that, where its end is asked about, would last longer than any can: the
-- clock was set back. Its holder may still fill, until it is given to another.
local function binding(stamp, epoch, ends)
  return epoch == EPOCH and stamp >= CLEAR and stamp <= HEAD and (not ends or ends <= NOW + MAX_LEASE)
end

-- give stores a lease. It returns false if Redis has no memory left.
local function give(key, nonce, stamp, duration)
  local ends = NOW + duration
  local value = nonce .. pack('>I8I8I8', EPOCH, stamp, ends)
  local done = try('SET', BASE .. 'l:' .. key, value, 'PX', text(math.ceil(duration / 1000)))
  if done.err then
    if string.find(done.err, '^OOM') then return false end
    error(done)
  end
  WROTE = true
  return ends
end
