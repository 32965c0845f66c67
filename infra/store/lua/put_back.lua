-- put_back: a conversation that a worker was given and has no room for waits again.
--
-- KEYS  1 turn  2 the worker
-- ARGV  1 turn
-- Returns {1} when it is in the waiting room, {0} when nothing of it waits for a worker.
--
-- Its tenant is next again: its turn came to nothing. The worker counts as full until its next
-- heartbeat, so that no turn goes to and fro between two.
local turn = read_turn(ARGV[1])
write_even_when_full()
local slots, host = unpack(redis.call('HMGET', KEYS[2], 'slots', 'host'))
if turn and host then redis.call('ZREM', key('host_starts', host), turn.conversation) end
if slots then redis.call('HSET', KEYS[2], 'used', slots, 'coming', '0') end
if not turn or not enter_room(turn.conversation, turn.tenant) then return {0} end
local first = redis.call('ZRANGE', KEY.ring, 0, 0, 'WITHSCORES')
if first[1] ~= turn.tenant then
  redis.call('ZADD', KEY.ring, int(tonumber(first[2]) - 1), turn.tenant)
end
return {1}
