-- leave: a reader of a turn reads no more; one that hung up takes the turn along if it was the last.
--
-- KEYS  turn_readers
-- ARGS  turn, tenant, reader, reason ('' for a reader that did not hang up),
--       cancelled (end event of a turn that is), order (control message for the owner), events_max,
--       ended_ttl_ms
-- Returns 'unknown' (also for another tenant's turn) | 'ended' |
--       'stays' (its client wanted it to go on, or did not hang up) |
--       'read' (somebody else waits for it) | 'cancelled'
--
-- Looking and cancelling are one step: a repeat either has joined before it, and is seen here, or
-- comes after it, and finds a turn that is being cancelled. Readers of a replica that died without a
-- word do not count; whether it lives is told by its subscription.
local turn = read_turn(A.turn)
if not turn or turn.tenant ~= A.tenant then return {'unknown'} end
redis.call('SREM', K.turn_readers, A.reader)
if is_ended(turn.state) then return {'ended'} end
if A.reason == '' or redis.call('HGET', turn.key, 'on_disconnect') == 'continue' then
  return {'stays'}
end
for _, reader in ipairs(redis.call('SMEMBERS', K.turn_readers)) do
  local channel = key('replica_channel', string.match(reader, '^[^ ]*'))
  if tonumber(redis.call('PUBSUB', 'NUMSUB', channel)[2]) > 0 then return {'read'} end
end
cancel_turn(turn, A.reason, A.cancelled, A.order, A.events_max, A.ended_ttl_ms)
return {'cancelled'}
