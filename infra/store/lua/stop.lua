-- stop: ends what a conversation runs and costs; the conversation stays.
--
-- KEYS  conversation, idle
-- ARGS  conversation, tenant ('' for an operator), reason,
--       cancelled (end event of a turn that is), order (control message for the owner),
--       events_max, ended_ttl_ms
-- Returns 'ok' state, turn (that is being cancelled), owner (living) |
--       'unknown' (also for another tenant's)
--
-- The flag of the running turn and the deadline in the past are the truth; the message is faster.
local held = redis.call('HMGET', K.conversation, 'state', 'tenant', 'turn')
if not held[1] or (A.tenant ~= '' and held[2] ~= A.tenant) then return {'unknown'} end
write_even_when_full()
cancel_waiting(A.conversation, A.cancelled, A.reason, A.events_max, A.ended_ttl_ms)
local turn = held[3] and read_turn(held[3])
local running = ''
if turn and not is_ended(turn.state) then
  running = turn.id
  redis.call('HSETNX', turn.key, 'cancel', A.reason)
elseif held[1] ~= 'cold' and held[1] ~= 'lost' then
  local now = int(now_ms())
  redis.call('ZADD', K.idle, now, A.conversation)
  redis.call('HSET', K.conversation, 'idle_at', now)
end
local owner = living_owner(A.conversation)
if owner ~= '' then redis.call('PUBLISH', key('control_channel', owner), A.order) end
return {'ok', 'state', held[1], 'turn', running, 'owner', owner}
