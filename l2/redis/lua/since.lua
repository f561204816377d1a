-- since: the delta alone.

local refused = open(scores(T, t_members()), scores(K, k_members()))
if refused then return refused end
return answer('')
