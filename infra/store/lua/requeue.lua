-- requeue: claimed -> queued, at the FIFO's head.
--
-- KEYS  conversation, turns_open
-- ARGS  conversation, worker, fence, turn, attempts_max, cancelled (end event of a turn that is),
--       events_max, ended_ttl_ms,
--       refusals_max (how often it may come back without its attempt being counted)
-- Returns 'ok' | 'no' | 'lost'
--
-- A turn somebody wants stopped ends as cancelled instead. One whose owner's lease has lapsed waits
-- for another worker. One that is out of the owner's hands already, by the same fence, was given back
-- by this script, whose answer was lost.
if not is_owner(K.conversation, A.worker, A.fence) then return {'lost'} end
local turn = read_turn(A.turn)
if not turn then return {'no'} end
if redis.call('HGET', K.conversation, 'turn') ~= turn.id then
  local is_given_back = turn.state == 'queued' or (turn.state == 'cancelled' and turn.cancel)
  return {turn.fence == A.fence and is_given_back and 'ok' or 'no'}
end
if turn.state ~= 'claimed' or turn.seq > 0 then return {'no'} end
local refused = tonumber(redis.call('HGET', turn.key, 'refused')) or 0
local is_counted = refused >= tonumber(A.refusals_max)
if is_counted and turn.attempt >= tonumber(A.attempts_max) and not turn.cancel then return {'no'} end

write_even_when_full()
if redis.call('HGET', K.conversation, 'state') == 'busy' then
  step_conversation(K.conversation, 'busy', 'warm')
end
if turn.cancel then
  redis.call('HDEL', K.conversation, 'turn')
  local n = end_turn(turn, 'cancelled', 1, A.cancelled, turn.cancel, A.events_max, A.ended_ttl_ms)
  announce(turn, A.fence, n, A.cancelled)
  settle(A.conversation)
  return {'ok'}
end
if not is_counted then redis.call('HSET', turn.key, 'refused', refused + 1) end
wait_again(turn, is_counted and turn.attempt or turn.attempt - 1)
redis.call('ZADD', K.turns_open, int(now_ms()), turn.id)
enter_room(A.conversation, turn.tenant)
return {'ok'}
