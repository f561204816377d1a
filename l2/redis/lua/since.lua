-- since: the delta alone. ARGV[2] is there if the caller is a guest.

--@include ledger

local ASK = {''}
GUEST = ARGV[2] ~= nil

--@include open
--@include answer
