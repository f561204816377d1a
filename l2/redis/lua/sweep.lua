-- sweep: removes some of the tag sets' buckets that have ended. Answers whether
-- there are more.

--@include ledger

local ASK = {''}

--@include open
--@include sets

BODY = pack('>B', ended(SWEEP_STEP) == SWEEP_STEP and 1 or 0)

--@include answer
