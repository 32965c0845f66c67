-- update: moves a conversation to a state under its lease.
--
-- KEYS  conversation, idle
-- ARGS  conversation, worker, fence, state, container, sdk_session
-- Returns 'ok' | 'lost' | 'illegal' state (the old one)
--
-- Staying in a state is no error. A turn for which a container is started has reached no agent, whether
-- submit began it or not.
if not is_owner(K.conversation, A.worker, A.fence) then return {'lost'} end
local old, new = redis.call('HGET', K.conversation, 'state'), A.state
if old ~= new and not CONVERSATION_NEXT[old][new] then return {'illegal', 'state', old} end
write_even_when_full()
if old ~= new then step_conversation(K.conversation, old, new) end
if new == 'starting' then
  local unfinished = redis.call('HGET', K.conversation, 'turn')
  local turn = unfinished and read_turn(unfinished)
  if turn and turn.fence == A.fence and turn.seq == 0 and is_begun_unsaid(turn) then
    redis.call('HDEL', turn.key, 'begun', 'known')
  end
  redis.call('HDEL', K.conversation, 'container', 'hibernated', 'hibernated_at')
  redis.call('HSET', K.conversation, 'host', redis.call('HGET', K.conversation, 'owner_host'))
elseif new == 'cold' or new == 'lost' then
  redis.call('HDEL', K.conversation, 'container', 'idle_at')
  redis.call('ZREM', K.idle, A.conversation)
end
if A.container ~= '' then redis.call('HSET', K.conversation, 'container', A.container) end
if A.sdk_session ~= '' then redis.call('HSET', K.conversation, 'sdk_session', A.sdk_session) end
return {'ok'}
