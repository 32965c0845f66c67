-- requeue: claimed -> queued, at the FIFO's head.
--
-- KEYS  1 conversation  2 todo  3 turns_open
-- ARGV  1 conversation  2 worker  3 fence  4 turn  5 most attempts
--       6 end event of a cancelled turn  7 most events of a log  8 an ended turn's life (ms)
--       9 the FIFO's life (ms)  10 how often it may come back without its attempt being counted; 0:
--       this time it is counted
-- Returns {'ok'}, {'no'} or {'lost'}. A turn somebody wants stopped ends as cancelled instead.
-- One whose owner's lease has lapsed waits for another worker. One that is out of the owner's hands
-- already, by the same fence, was given back by this script, whose answer was lost.
if not is_owner(KEYS[1], ARGV[2], ARGV[3]) then return {'lost'} end
local turn = read_turn(ARGV[4])
if not turn then return {'no'} end
if redis.call('HGET', KEYS[1], 'turn') ~= turn.id then
  local is_given_back = turn.state == 'queued' or (turn.state == 'cancelled' and turn.cancel)
  return {turn.fence == ARGV[3] and is_given_back and 'ok' or 'no'}
end
if turn.state ~= 'claimed' or turn.seq > 0 then return {'no'} end
local refused = tonumber(redis.call('HGET', turn.key, 'refused')) or 0
local is_counted = refused >= tonumber(ARGV[10])
if is_counted and turn.attempt >= tonumber(ARGV[5]) and not turn.cancel then return {'no'} end

write_even_when_full()
redis.call('HDEL', KEYS[1], 'turn')
if redis.call('HGET', KEYS[1], 'state') == 'busy' then
  step_conversation(KEYS[1], 'busy', 'warm')
end
if turn.cancel then
  local n = end_turn(turn, 'cancelled', 1, ARGV[6], turn.cancel, ARGV[7], ARGV[8])
  announce(turn, ARGV[3], n, ARGV[6])
  settle(ARGV[1])
  return {'ok'}
end
step_turn(turn, 'queued')
if not is_counted then
  redis.call('HSET', turn.key, 'attempt', turn.attempt - 1, 'refused', refused + 1)
end
redis.call('LPUSH', KEYS[2], turn.id)
redis.call('PEXPIRE', KEYS[2], ARGV[9])
redis.call('ZADD', KEYS[3], int(now_ms()), turn.id)
enter_room(ARGV[1], turn.tenant)
return {'ok'}
