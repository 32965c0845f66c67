-- reap: wins the right to stop an idle conversation.
--
-- KEYS  conversation, todo, idle
-- ARGS  conversation, worker, again_ms (when another may try if the winner dies)
-- Returns 'won' | 'no'
--
-- The deadline moves ahead instead of going away: only the end of the stopping (cold) removes it.
-- The owner that is told again has won already: it asks twice because the first answer was lost.
local won = redis.call('HMGET', K.conversation, 'state', 'owner')
if won[1] == 'stopping' and won[2] == A.worker then return {'won'} end
local deadline = redis.call('ZSCORE', K.idle, A.conversation)
local now = now_ms()
if not deadline or tonumber(deadline) > now then return {'no'} end
local held = redis.call('HMGET', K.conversation, 'state', 'turn')
local state = held[1]
if held[2] or redis.call('LLEN', K.todo) > 0 then
  redis.call('ZREM', K.idle, A.conversation)
  return {'no'}
end
local owner = living_owner(A.conversation)
if owner ~= '' and owner ~= A.worker then return {'no'} end
if state ~= 'stopping' and not (state and CONVERSATION_NEXT[state].stopping) then
  redis.call('ZREM', K.idle, A.conversation)
  return {'no'}
end
write_even_when_full()
if state ~= 'stopping' then step_conversation(K.conversation, state, 'stopping') end
redis.call('ZADD', K.idle, int(now + tonumber(A.again_ms)), A.conversation)
return {'won'}
