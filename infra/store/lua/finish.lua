-- finish: the end event, no sealed key, the turn closed; what its conversation does next.
--
-- KEYS  1 conversation
-- ARGV  1 conversation  2 worker  3 fence  4 turn  5 number of the end event  6 end event
--       7 terminal state  8 reason or ''  9 usage JSON  10 idle timeout (ms)
--       11 most events of a log  12 an ended turn's life (ms)
-- Returns {'ok', 1 when another turn waits}, {'lost'} or {'illegal', state}.
--
-- Finishing twice is harmless. A turn may end done in the same breath as its first event: then it
-- passes through running.
if not is_owner(KEYS[1], ARGV[2], ARGV[3]) then return {'lost'} end
local turn = read_turn(ARGV[4])
local unfinished = redis.call('HGET', KEYS[1], 'turn')
if turn and is_ended(turn.state) then
  return {'ok', math.min(redis.call('LLEN', key('todo', ARGV[1])), 1)}
end
if not turn or unfinished ~= turn.id then return {'lost'} end
local new = ARGV[7]
local through = not TURN_NEXT[turn.state][new]
if through and not (TURN_NEXT[turn.state].running and TURN_NEXT.running[new]) then
  return {'illegal', turn.state}
end

write_even_when_full()
if through then step_turn(turn, 'running') end
local reason = ARGV[8]
if reason == '' and new == 'cancelled' then reason = turn.cancel or '' end
end_turn(turn, new, tonumber(ARGV[5]), ARGV[6], reason, ARGV[11], ARGV[12])
redis.call('HSET', turn.key, 'usage', ARGV[9])

redis.call('HDEL', KEYS[1], 'turn')
redis.call('HINCRBY', KEYS[1], 'turns', 1)
redis.call('HSET', KEYS[1], 'last_active', int(now_ms()), 'idle_timeout', ARGV[10])
local held = redis.call('HMGET', KEYS[1], 'state', 'retention')
if held[2] then redis.call('PEXPIRE', KEYS[1], held[2]) end
if held[1] == 'busy' then step_conversation(KEYS[1], 'busy', 'warm') end
return {'ok', settle(ARGV[1])}
