-- cancel: a queued turn ends at once; of one that runs the flag is set and its owner told.
--
-- KEYS  1 turn
-- ARGV  1 turn  2 tenant  3 reason  4 end event  5 control message for the owner
--       6 most events of a log  7 an ended turn's life (ms)
-- Returns {'ok', state} or {'unknown'} (also for another tenant's turn).
local turn = read_turn(ARGV[1])
if not turn or turn.tenant ~= ARGV[2] then return {'unknown'} end
if is_ended(turn.state) then return {'ok', turn.state} end
cancel_turn(turn, ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7])
return {'ok', turn.state}
