-- Leases, and what became of the last.
--
--   l:<key>  nonce, of which the second half says whose it is; epoch, stamp, and
--            when it runs out. The epoch's first byte, 0, is the version of the
--            form; a later one may have more at the end
--   o:<key>  while it is remembered that a load left nothing: the outcome, whose
--            load it was, since when and for how long

-- lease_of returns the nonce, stamp, end and epoch of the lease under a key
-- that has not run out, or nil; and then whose load has left nothing, if that is
-- remembered. Of a later version's lease the nonce is empty, for what it means is
-- not known: it is nobody's here, and no other is given.
local function lease_of(key)
  local found = call('MGET', BASE .. 'l:' .. key, BASE .. 'o:' .. key) -- of another type: as good as lost
  local raw, last, failed = found[1], found[2], nil
  if last and #last == OUTCOME_BYTES then
    local since, lasts = unbox('>I8I8', last, HOLDER_BYTES + 2)
    -- The clock may have been set back.
    if since <= NOW and NOW < since + math.min(lasts, MOST_REMEMBER) then failed = sub(last, 2, HOLDER_BYTES + 1) end
  end
  if not raw or #raw < LEASE_BYTES then return nil, 0, 0, 0, failed end
  local version, epoch, stamp, ends = unbox('>BI7I8I8', raw, NONCE_BYTES + 1)
  if ends <= NOW then return nil, 0, 0, 0, failed end
  if version > 0 then return ends <= NOW + MAX_LEASE and '' or nil, 0, 0, 0, failed end
  if #raw > LEASE_BYTES then return nil, 0, 0, 0, failed end
  return sub(raw, 1, NONCE_BYTES), stamp, ends, epoch, failed
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
