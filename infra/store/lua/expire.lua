-- expire: queued -> expired, with an end event.
--
-- KEYS  1 turn
-- ARGV  1 turn  2 reason  3 end event  4 most events of a log  5 an ended turn's life (ms)
-- Returns {1} when it is expired now, {0} when it was not queued any more.
local turn = read_turn(ARGV[1])
if not turn or turn.state ~= 'queued' then return {0} end
write_even_when_full()
redis.call('LREM', key('todo', turn.conversation), 0, turn.id)
local n = end_turn(turn, 'expired', turn.seq + 1, ARGV[3], ARGV[2], ARGV[4], ARGV[5])
announce(turn, '0', n, ARGV[3])
review_room(turn.conversation, turn.tenant)
settle(turn.conversation)
return {1}
