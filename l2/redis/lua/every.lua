-- Adds to dead what stands under keys in other schemas than the default one, and the
-- lists of those: see schemas.lua. In: keys, in the form of their records.

for from = 1, #keys, CHUNK do
  local lists = {}
  for i = from, math.min(from + CHUNK - 1, #keys) do lists[#lists + 1] = BASE .. 'm:' .. sub(keys[i], 2) end
  for i, raw in ipairs(call('MGET', unpack(lists))) do
    if raw then
      dead[#dead + 1] = lists[i]
      local at = byte(raw) == 1 and 2 or #raw
      while #raw >= at + 8 do
        local length = byte(raw, at + 8)
        local name = '\255' .. sub(raw, at + 9, at + 8 + length) .. '\255' .. sub(keys[from + i - 1], 2)
        dead[#dead + 1] = BASE .. 'e:' .. name
        dead[#dead + 1] = BASE .. 'l:' .. name
        at = at + 9 + length
      end
    end
  end
end
