-- hibernate: wins the right to stop the container of an idle conversation before its deadline.
--
-- KEYS  conversation, todo, idle
-- ARGS  conversation, worker, fence, reason, again_ms (when another may try if the winner dies)
-- Returns 'won' | 'no' (a turn runs or waits) | 'lost'
--
-- Called again after a lost answer it is won again. The record keeps the reason until a container
-- starts again; only the end of the stopping (cold) removes the deadline.
if not is_owner(K.conversation, A.worker, A.fence) then return {'lost'} end
local held = redis.call('HMGET', K.conversation, 'state', 'turn', 'hibernated')
if held[1] == 'stopping' and held[3] then return {'won'} end
if held[1] ~= 'warm' or held[2] or redis.call('LLEN', K.todo) > 0 then return {'no'} end
write_even_when_full()
step_conversation(K.conversation, 'warm', 'stopping')
local now = now_ms()
redis.call('HSET', K.conversation, 'hibernated', A.reason, 'hibernated_at', int(now))
redis.call('ZADD', K.idle, int(now + tonumber(A.again_ms)), A.conversation)
return {'won'}
