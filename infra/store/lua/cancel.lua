-- cancel: a queued turn ends at once; of one that runs the flag is set and its owner told.
--
-- KEYS  1 turn
-- ARGV  1 turn  2 tenant  3 reason  4 end event  5 control message for the owner
--       6 most events of a log  7 an ended turn's life (ms)
-- Returns {'ok', state} or {'unknown'} (also for another tenant's turn).
local turn = read_turn(ARGV[1])
if not turn or turn.tenant ~= ARGV[2] then return {'unknown'} end
if is_ended(turn.state) then return {'ok', turn.state} end
write_even_when_full()
if turn.state == 'queued' then
  redis.call('LREM', key('todo', turn.conversation), 0, turn.id)
  local n = end_turn(turn, 'cancelled', turn.seq + 1, ARGV[4], ARGV[3], ARGV[6], ARGV[7])
  announce(turn, '0', n, ARGV[4])
  review_room(turn.conversation, turn.tenant)
  settle(turn.conversation)
  return {'ok', turn.state}
end
redis.call('HSETNX', KEYS[1], 'cancel', ARGV[3])
local owner = living_owner(turn.conversation)
if owner ~= '' then redis.call('PUBLISH', key('control_channel', owner), ARGV[5]) end
return {'ok', turn.state}
