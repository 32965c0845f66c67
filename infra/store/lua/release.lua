-- release: gives a lease up and leaves the conversation in a state.
--
-- KEYS  conversation, lease, idle, turns_open, todo
-- ARGS  conversation, worker, fence, state, runs (the turn that its owner works on, or '')
-- Returns 'ok' waiting (the first such turn, or '') | 'lost' | 'illegal' state (the old one)
--
-- Cold is reached through stopping where the table has no direct step. An unfinished turn comes up
-- in the next sweep, so that a successor adopts it at once. Without one the first waiting turn does,
-- and enters the waiting room: its submitter told this owner and nobody else. Behind an unfinished turn it is not offered, for
-- that one belongs to a worker of this host. One that submit began for this owner, and that it does not
-- work on, waits again: nobody has it. A conversation nobody asked for (a deleted
-- one, or one that only its container still knew) is forgotten.
if not is_owner(K.conversation, A.worker, A.fence) then return {'lost'} end
local held = redis.call('HMGET', K.conversation, 'state', 'turn')
local old, new = held[1], A.state
local through = old ~= new and not CONVERSATION_NEXT[old][new]
if through and not (CONVERSATION_NEXT[old].stopping and CONVERSATION_NEXT.stopping[new]) then
  return {'illegal', 'state', old}
end
write_even_when_full()
local begun = held[2] and held[2] ~= A.runs and read_turn(held[2])
if begun and begun.fence == A.fence and begun.seq == 0 and is_begun_unsaid(begun) then
  wait_again(begun, begun.attempt - 1)
  held[2] = nil
end
if through then
  step_conversation(K.conversation, old, 'stopping')
  step_conversation(K.conversation, 'stopping', new)
elseif old ~= new then
  step_conversation(K.conversation, old, new)
end
redis.call('HDEL', K.conversation, 'owner', 'owner_host')
if redis.call('GET', K.lease) == A.worker then redis.call('DEL', K.lease) end
if new == 'cold' or new == 'lost' then
  redis.call('HDEL', K.conversation, 'container', 'idle_at')
  redis.call('ZREM', K.idle, A.conversation)
end
-- Its next owner does not follow one that died of it.
if held[2] then redis.call('HDEL', key('turn', held[2]), 'adoptions', 'adopted_seq') end
local waiting = not held[2] and redis.call('LINDEX', K.todo, 0)
local next_turn = held[2] or waiting
if next_turn then redis.call('ZADD', K.turns_open, '0', next_turn) end
local tenant = redis.call('HGET', K.conversation, 'tenant')
if tenant then enter_room(A.conversation, tenant) end
if new == 'cold' and not redis.call('HGET', K.conversation, 'tenant') then redis.call('DEL', K.conversation) end
return {'ok', 'waiting', waiting or ''}
