-- start: claimed -> running; from now on the turn may have had effects.
--
-- KEYS  conversation
-- ARGS  worker, fence, turn, base (the memory it stands on, JSON),
--       is_resending (its client sends the history),
--       heads (how the answers of that history begin, a JSON list)
-- Returns 'ok' | 'lost' | 'illegal' state
--
-- A turn that already runs is no error and keeps the base it was started with; one that submit began may
-- have none. The heads have a key
-- of their own, because operators may read a turn's hash but not what was said.
if not is_owner(K.conversation, A.worker, A.fence) then return {'lost'} end
local turn = read_turn(A.turn)
if not turn or redis.call('HGET', K.conversation, 'turn') ~= turn.id then return {'lost'} end
local has_base = redis.call('HEXISTS', turn.key, 'base') == 1
if turn.state == 'running' and (has_base or turn.seq > 0) then return {'ok'} end
if turn.state ~= 'running' and not TURN_NEXT[turn.state].running then return {'illegal', 'state', turn.state} end
write_even_when_full()
if turn.state ~= 'running' then step_turn(turn, 'running') end
redis.call('HSET', turn.key, 'started', int(now_ms()))
if A.base ~= '' then
  redis.call('HSET', turn.key, 'base', A.base)
  hold(turn.tenant, turn.id, #A.base)
end
if A.heads ~= '' then
  local heads = key('turn_heads', turn.id)
  redis.call('SET', heads, A.heads)
  redis.call('PEXPIRE', heads, redis.call('PTTL', turn.key))
  hold(turn.tenant, turn.id, #A.heads)
end
if A.is_resending == '1' then redis.call('HSET', K.conversation, 'resends', '1') end
return {'ok'}
