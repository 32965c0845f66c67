-- start: claimed -> running; from now on the turn may have had effects.
--
-- KEYS  1 conversation
-- ARGV  1 worker  2 fence  3 turn  4 the memory it stands on (JSON) or ''
--       5 1 when its client sends the history
--       6 how the answers of that history begin (a JSON list), or ''
-- Returns {'ok'}, {'lost'} or {'illegal', state}. A turn that runs already is no error,
-- and keeps the base it was started with. The heads stand apart: whoever may look at a turn's hash is
-- not to read what was said.
if not is_owner(KEYS[1], ARGV[1], ARGV[2]) then return {'lost'} end
local turn = read_turn(ARGV[3])
if not turn or redis.call('HGET', KEYS[1], 'turn') ~= turn.id then return {'lost'} end
if turn.state == 'running' then return {'ok'} end
if not TURN_NEXT[turn.state].running then return {'illegal', turn.state} end
write_even_when_full()
step_turn(turn, 'running')
redis.call('HSET', turn.key, 'started', int(now_ms()))
if ARGV[4] ~= '' then
  redis.call('HSET', turn.key, 'base', ARGV[4])
  hold(turn.tenant, turn.id, #ARGV[4])
end
if ARGV[6] ~= '' then
  local heads = key('turn_heads', turn.id)
  redis.call('SET', heads, ARGV[6])
  redis.call('PEXPIRE', heads, redis.call('PTTL', turn.key))
  hold(turn.tenant, turn.id, #ARGV[6])
end
if ARGV[5] == '1' then redis.call('HSET', KEYS[1], 'resends', '1') end
return {'ok'}
