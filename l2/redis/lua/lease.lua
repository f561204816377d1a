-- Leases: the nonce of the holder, then epoch, stamp and when it runs out. The
-- epoch's first byte, 0, is the version of the form; a later one may have more at
-- the end.

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

-- binding tells whether a lease still keeps others from the key. One that the
-- rule has ended already (another epoch, everything invalidated) does not.
local function binding(stamp, epoch)
  return epoch == EPOCH and stamp >= CLEAR and stamp <= HEAD
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
