-- since: the delta alone.

--@include ledger

local ASK = {''}

--@include open
--@include answer
