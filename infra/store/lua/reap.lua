-- reap: wins the right to stop an idle conversation.
--
-- KEYS  1 conversation  2 todo  3 idle
-- ARGV  1 conversation  2 worker  3 when another may try if the winner dies (ms)
-- Returns {1} for the winner, else {0}.
--
-- The deadline moves ahead instead of going away: only the end of the stopping (cold) removes it.
-- The owner that is told again has won already: it asks twice because the first answer was lost.
local won = redis.call('HMGET', KEYS[1], 'state', 'owner')
if won[1] == 'stopping' and won[2] == ARGV[2] then return {1} end
local deadline = redis.call('ZSCORE', KEYS[3], ARGV[1])
local now = now_ms()
if not deadline or tonumber(deadline) > now then return {0} end
local held = redis.call('HMGET', KEYS[1], 'state', 'turn')
local state = held[1]
if held[2] or redis.call('LLEN', KEYS[2]) > 0 then
  redis.call('ZREM', KEYS[3], ARGV[1])
  return {0}
end
local owner = living_owner(ARGV[1])
if owner ~= '' and owner ~= ARGV[2] then return {0} end
if state ~= 'stopping' and not (state and CONVERSATION_NEXT[state].stopping) then
  redis.call('ZREM', KEYS[3], ARGV[1])
  return {0}
end
write_even_when_full()
if state ~= 'stopping' then step_conversation(KEYS[1], state, 'stopping') end
redis.call('ZADD', KEYS[3], int(now + tonumber(ARGV[3])), ARGV[1])
return {1}
