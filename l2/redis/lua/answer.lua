-- The answer of every script: flags, epoch, head and clock, then BODY; then the
-- elements of MORE; then, if there is one, the delta.

if #ARGV[1] > COMMON_BYTES then
  --@include follow
end
if not WROTE then
  call('UNLINK', BASE .. '!') -- never there: it changes nothing, and a replica refuses it
end
local flags = MINTED and 2 or 0
if SHOWN_EPOCH == EPOCH and SHOWN ~= HEAD and not RESET then
  if SHOWN < FLOOR_K or SHOWN < FLOOR_T then
    RESET = true
  else
    -- after packs what a set recorded after the position shown, and returns up
    -- to where that is complete (0: all is there). A first record that alone
    -- is over the limit is packed whole.
    local function after(set)
      local found = call('ZRANGE', set, '(' .. text(SHOWN), '+inf', 'BYSCORE', 'LIMIT', '0', DELTA_LIMIT, 'WITHSCORES')
      local complete = 0
      if #found > 2 * MAX_DELTA then
        local first, last = found[2], found[#found]
        if first == last then
          found = call('ZRANGE', set, first, first, 'BYSCORE', 'WITHSCORES')
          if call('ZCOUNT', set, '(' .. first, '+inf') > 0 then complete = tonumber(first) end
        else
          complete = last - 1
        end
      end
      local packed = {}
      for i = 1, #found, 2 do
        packed[#packed + 1] = pack('>I8I2', found[i + 1], #found[i]) .. found[i]
      end
      return table.concat(packed), complete
    end
    local t, t_complete = after(T)
    local k, k_complete = after(K)
    MORE[#MORE + 1] = pack('>I8I8I8', t_complete, k_complete, CLEAR > SHOWN and CLEAR or 0) .. t .. k
    flags = flags + 4
  end
end
if RESET then flags = flags + 1 end
MORE[1] = pack('>BI8I8I8', flags, EPOCH, HEAD, NOW) .. BODY
return MORE
