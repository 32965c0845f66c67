-- expire: queued -> expired, with an end event.
--
-- KEYS  none: those of the turn it finds by itself
-- ARGS  turn, reason, end_event, events_max, ended_ttl_ms
-- Returns 'expired' | 'not_queued'
local turn = read_turn(A.turn)
if not turn or turn.state ~= 'queued' then return {'not_queued'} end
write_even_when_full()
redis.call('LREM', key('todo', turn.conversation), 0, turn.id)
local n = end_turn(turn, 'expired', turn.seq + 1, A.end_event, A.reason, A.events_max, A.ended_ttl_ms)
announce(turn, '0', n, A.end_event)
review_room(turn.conversation, turn.tenant)
settle(turn.conversation)
return {'expired'}
