-- Schemas: an entry, a lease and an outcome stand under a name. That is the key,
-- for the default schema; for another one '\255'..schema..'\255'..key, which no key
-- looks like. Records and what settles go by the key.
--
--   m:<key>  '\1', the version of the form; then of each schema beside the default
--            one that has an entry or a lease, until when it has, the length of its
--            name, and its name
--
-- It is what an invalidation of the key goes by, and so the other way round: nothing
-- counts under a name whose schema is not in the list. So it may be lost at any
-- time. Whatever stands under a name goes when its schema comes into the list. Of a
-- list of a later version nothing is known, so nothing counts; a record of the key
-- deletes it like any other.
--
-- This is included where a name is of a schema, and where one may be.

-- schemas_of returns the list that a name is to be in: a table of {schema, until
-- when}, with where in it the name's own schema is, if it is there.
local function schemas_of(name)
  local at = string.find(name, '\255', 2, true)
  local list = {name = name, key = sub(name, at + 1), schema = sub(name, 2, at - 1)}
  local raw = try('GET', BASE .. 'm:' .. list.key)
  if type(raw) ~= 'string' or raw == '' then return list end -- or of another type
  list.later = byte(raw) > 1
  at = 2
  while not list.later and #raw >= at + 8 do
    local ends, length = unbox('>I8B', raw, at)
    local schema = sub(raw, at + 9, at + 8 + length)
    list[#list + 1] = {schema, ends}
    if schema == list.schema then list.own = #list end
    at = at + 9 + length
  end
  return list
end

-- keep_list stores a list. It returns false if Redis has no memory left, and has
-- done nothing then.
local function keep_list(list)
  local packed, last = {'\1'}, NOW
  for _, listed in ipairs(list) do
    packed[#packed + 1] = pack('>I8B', listed[2], #listed[1]) .. listed[1]
    last = math.max(last, listed[2])
  end
  local done = try('SET', BASE .. 'm:' .. list.key, table.concat(packed), 'PX', text(math.ceil((last - NOW) / 1000) + 1))
  if done.err then
    if string.find(done.err, '^OOM') then return false end
    error(done)
  end
  WROTE = true
  return true
end

-- prolong notes until when a schema in the list has something, if that is longer
-- than what is known.
local function prolong(list, ends)
  if list[list.own][2] < ends then
    list[list.own][2] = ends
    return keep_list(list)
  end
  return true
end

-- enlist has a schema be in the list, until some time at least. Schemas that are
-- over leave it, and if there are too many, the one that ends first. It returns
-- false if Redis has no memory left, and has done nothing then.
local function enlist(list, ends)
  if list.own then return prolong(list, ends) end
  local rest, dead = {key = list.key}, {BASE .. 'e:' .. list.name, BASE .. 'l:' .. list.name}
  for _, listed in ipairs(list) do
    if listed[2] > NOW and listed[2] <= NOW + MAX_KEEP then rest[#rest + 1] = listed end
  end
  while #rest >= MAX_SCHEMAS do
    local first = 1
    for i = 2, #rest do
      if rest[i][2] < rest[first][2] then first = i end
    end
    local name = '\255' .. table.remove(rest, first)[1] .. '\255' .. list.key
    dead[#dead + 1] = BASE .. 'e:' .. name
    dead[#dead + 1] = BASE .. 'l:' .. name
  end
  rest[#rest + 1] = {list.schema, ends}
  if not keep_list(rest) then return false end
  call('UNLINK', unpack(dead))
  return true
end
