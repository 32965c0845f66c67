-- cancel: a queued turn ends at once; of one that runs the flag is set and its owner told.
--
-- KEYS  none: those of the turn it finds by itself
-- ARGS  turn, tenant, reason, cancelled (end event of a turn that is),
--       order (control message for the owner), events_max, ended_ttl_ms
-- Returns 'ok' state | 'unknown' (also for another tenant's turn)
local turn = read_turn(A.turn)
if not turn or turn.tenant ~= A.tenant then return {'unknown'} end
if is_ended(turn.state) then return {'ok', 'state', turn.state} end
cancel_turn(turn, A.reason, A.cancelled, A.order, A.events_max, A.ended_ttl_ms)
return {'ok', 'state', turn.state}
