-- release: gives a lease up and leaves the conversation in a state.
--
-- KEYS  1 conversation  2 lease  3 idle  4 turns_open  5 todo
-- ARGV  1 conversation  2 worker  3 fence  4 state
-- Returns {'ok', first waiting turn or ''}, {'lost'} or {'illegal', old state}.
--
-- Cold is reached through stopping where the table has no direct step. An unfinished turn comes up
-- in the next sweep, so that a successor adopts it at once. Without one the first waiting turn does,
-- and enters the waiting room: its submitter told this owner and nobody else. Behind an unfinished turn it is not offered, for
-- that one belongs to a worker of this host. A conversation nobody asked for (a deleted
-- one, or one that only its container still knew) is forgotten.
if not is_owner(KEYS[1], ARGV[2], ARGV[3]) then return {'lost'} end
local held = redis.call('HMGET', KEYS[1], 'state', 'turn')
local old, new = held[1], ARGV[4]
local through = old ~= new and not CONVERSATION_NEXT[old][new]
if through and not (CONVERSATION_NEXT[old].stopping and CONVERSATION_NEXT.stopping[new]) then
  return {'illegal', old}
end
write_even_when_full()
if through then
  step_conversation(KEYS[1], old, 'stopping')
  step_conversation(KEYS[1], 'stopping', new)
elseif old ~= new then
  step_conversation(KEYS[1], old, new)
end
redis.call('HDEL', KEYS[1], 'owner', 'owner_host')
if redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('DEL', KEYS[2]) end
if new == 'cold' or new == 'lost' then
  redis.call('HDEL', KEYS[1], 'container', 'idle_at')
  redis.call('ZREM', KEYS[3], ARGV[1])
end
-- Its next owner does not follow one that died of it.
if held[2] then redis.call('HDEL', key('turn', held[2]), 'adoptions', 'adopted_seq') end
local waiting = not held[2] and redis.call('LINDEX', KEYS[5], 0)
local next_turn = held[2] or waiting
if next_turn then redis.call('ZADD', KEYS[4], '0', next_turn) end
local tenant = redis.call('HGET', KEYS[1], 'tenant')
if tenant then enter_room(ARGV[1], tenant) end
if new == 'cold' and not redis.call('HGET', KEYS[1], 'tenant') then redis.call('DEL', KEYS[1]) end
return {'ok', waiting or ''}
