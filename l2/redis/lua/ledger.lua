-- The ledger of one partition: three sorted sets and a fourth beside them. (And
-- a hash of those who follow it: see follow.lua; and what settles: see
-- settle.lua.)
--
--   t  records of tags       't'..tag = position
--   k  records of keys       'k'..key = position
--   h  positions issued      'p'..position = position
--   x  epochs left or shown  epoch = when
--
-- The first member of t, k and h is reserved. It has a negative score, so that
-- a range over positive ones meets records only, and says of which ledger the
-- set is a part:
--
--   t  '!', epoch, head, floor of k and h, floor of t, last clear, longest keep,
--      process, partitions; and while something settles, SETTLES
--   k  '!', epoch, head, floor of k and h
--   h  '!', epoch, head, floor of k and h
--
-- The byte after the '!' is the version of the form: 0, because epochs are below
-- 2^52. A later version writes another one, in the member of every set whose form
-- it changes. Such a ledger is not damaged: nothing is known of it here, so nothing
-- is done to it, and the caller is told SORALATER. Facts that are new, and that
-- this form can do without, stand in keys of their own beside it; a key never
-- changes its type.
--
-- Whoever knows t's member knows the other two, so that each costs one lookup,
-- and a set that was lost, or is of another time than the others, is noticed.
--
-- Every script includes this file; says in ASK which members of k it wants to
-- know, of which the first is left to open.lua; includes that; does its work,
-- leaving what it answers in BODY and MORE; and ends with answer.lua. The loader
-- (scripts.go) fills in the includes, and constants in the place of the
-- capitalised names that it knows. RUN is which Redis process the text is loaded
-- into, 0 if that could not be learned.
--
-- KEYS are t, k and h. The other keys of the partition share their hash tag and
-- are derived here: most cannot be known before the script runs.
-- ARGV[1] is the same for every script: a random candidate for a new epoch, the
-- epoch and position that the caller shows, the number of partitions, and when the
-- namespace was looked up to have that many (0: not for this call); more of it is
-- for follow.lua.
--
-- A script makes its functions anew each time that it runs, and pays for each
-- and for each variable that it shares. So what always happens is written
-- straight, and functions seldom called are defined where they are called. For
-- the like reason arguments of commands are text: Redis formats numbers slowly.

local call, try = redis.call, redis.pcall
local pack, unbox = struct.pack, struct.unpack
local sub, byte = string.sub, string.byte

local T, K, H = KEYS[1], KEYS[2], KEYS[3]
local BASE = sub(T, 1, -2)
local CANDIDATE, SHOWN_EPOCH, SHOWN, PARTITIONS, LOOKED_UP = unbox('>I8I8I8I2I8', ARGV[1])

local clock = call('TIME')
local NOW = clock[1] * 1000000 + clock[2]

-- STATE is t's reserved member; its first MARK_BYTES are those of k and h. The
-- others are what it says.
local STATE, EPOCH, HEAD, FLOOR_K, FLOOR_T, CLEAR, LONGEST, PROCESS
-- SETTLES is empty unless something settles: the end of STATE, which says when
-- the first and when the last of it has settled, and which set of them is meant.
local SETTLES = ''
local RESET, MINTED, WROTE = false, false, false

-- What the operation answers: bytes, and elements of their own after the first,
-- which is answer.lua's.
local BODY, MORE = '', {''}

-- Numbers become text this way only: Lua's own tostring keeps 14 digits.
local function text(number) return string.format('%.0f', number) end

-- scores looks members up in a sorted set. A key of another type is as good as
-- lost, so it reads as empty.
local function scores(set, members)
  if #members <= CHUNK then
    local found = redis.pcall('ZMSCORE', set, unpack(members))
    if not found.err then return found end
    if string.find(found.err, 'WRONGTYPE', 1, true) then return {} end
    error(found)
  end
  local all = {}
  for from = 1, #members, CHUNK do
    local part = redis.call('ZMSCORE', set, unpack(members, from, math.min(from + CHUNK - 1, #members)))
    for i = 1, #part do all[from + i - 1] = part[i] end
  end
  return all
end

-- compose makes t's reserved member.
local function compose(...) return struct.pack('>c1I8I8I8I8I8I8I8I2', '!', ...) .. SETTLES end

-- APPENDING says that a record will be appended, and GUEST that the caller is
-- not to make the ledger take a new epoch.
local APPENDING, GUEST = false, false
