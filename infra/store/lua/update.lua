-- update: moves a conversation to a state under its lease.
--
-- KEYS  1 conversation  2 idle
-- ARGV  1 conversation  2 worker  3 fence  4 state  5 container or ''  6 SDK session or ''
-- Returns {'ok'}, {'lost'} or {'illegal', old state}. Staying in a state is no error.
if not is_owner(KEYS[1], ARGV[2], ARGV[3]) then return {'lost'} end
local old, new = redis.call('HGET', KEYS[1], 'state'), ARGV[4]
if old ~= new and not CONVERSATION_NEXT[old][new] then return {'illegal', old} end
write_even_when_full()
if old ~= new then step_conversation(KEYS[1], old, new) end
if new == 'starting' then
  redis.call('HDEL', KEYS[1], 'container')
  redis.call('HSET', KEYS[1], 'host', redis.call('HGET', KEYS[1], 'owner_host'))
elseif new == 'cold' or new == 'lost' then
  redis.call('HDEL', KEYS[1], 'container', 'idle_at')
  redis.call('ZREM', KEYS[2], ARGV[1])
end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'container', ARGV[5]) end
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'sdk_session', ARGV[6]) end
return {'ok'}
