-- later tells whether a set was written by a later version, in a form that is not
-- known here: see ledger.lua. Its version is 1 or more, up to a most.
local function later(set, most)
  local member = try('ZRANGE', set, '0', '0')[1]
  if not member or #member < 2 or sub(member, 1, 1) ~= '!' then return false end
  local version = byte(member, 2)
  return version > 0 and version <= most
end
