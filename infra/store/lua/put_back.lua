-- put_back: a conversation that a worker was given and has no room for waits again.
--
-- KEYS  worker
-- ARGS  turn
-- Returns 'waits' (in the waiting room) | 'nothing' (of it waits for a worker)
--
-- Its tenant is next again: its turn came to nothing. The worker counts as full until its next
-- heartbeat, so that no turn goes to and fro between two.
local turn = read_turn(A.turn)
write_even_when_full()
local slots, host = unpack(redis.call('HMGET', K.worker, 'slots', 'host'))
if turn and host then redis.call('ZREM', key('host_starts', host), turn.conversation) end
if slots then redis.call('HSET', K.worker, 'used', slots, 'coming', '0') end
if not turn or not enter_room(turn.conversation, turn.tenant) then return {'nothing'} end
local first = redis.call('ZRANGE', KEY.ring, 0, 0, 'WITHSCORES')
if first[1] ~= turn.tenant then
  redis.call('ZADD', KEY.ring, int(tonumber(first[2]) - 1), turn.tenant)
end
return {'waits'}
