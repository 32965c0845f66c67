-- start: claimed -> running; from now on the turn may have had effects.
--
-- KEYS  1 conversation
-- ARGV  1 worker  2 fence  3 turn
-- Returns {'ok'}, {'lost'} or {'illegal', state}. A turn that runs already is no error.
if not is_owner(KEYS[1], ARGV[1], ARGV[2]) then return {'lost'} end
local turn = read_turn(ARGV[3])
if not turn or redis.call('HGET', KEYS[1], 'turn') ~= turn.id then return {'lost'} end
if turn.state == 'running' then return {'ok'} end
if not TURN_NEXT[turn.state].running then return {'illegal', turn.state} end
write_even_when_full()
step_turn(turn, 'running')
redis.call('HSET', turn.key, 'started', int(now_ms()))
return {'ok'}
