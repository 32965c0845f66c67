-- leave: a reader of a turn reads no more; one that hung up takes the turn along if it was the last.
--
-- KEYS  1 turn_readers
-- ARGV  1 turn  2 tenant  3 reader  4 reason, or '' for a reader that did not hang up
--       5 end event  6 control message for the owner  7 most events of a log
--       8 an ended turn's life (ms)
-- Returns 'unknown' (also for another tenant's turn), 'ended', 'stays' (its client wanted it to go
--       on, or did not hang up), 'read' (somebody else waits for it) or 'cancelled'.
--
-- Looking and cancelling are one step: a repeat either has joined before it, and is seen here, or
-- comes after it, and finds a turn that is being cancelled. Readers of a replica that died without a
-- word do not count; whether it lives is told by its subscription.
local turn = read_turn(ARGV[1])
if not turn or turn.tenant ~= ARGV[2] then return 'unknown' end
redis.call('SREM', KEYS[1], ARGV[3])
if is_ended(turn.state) then return 'ended' end
if ARGV[4] == '' or redis.call('HGET', turn.key, 'on_disconnect') == 'continue' then
  return 'stays'
end
for _, reader in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local channel = key('replica_channel', string.match(reader, '^[^ ]*'))
  if tonumber(redis.call('PUBSUB', 'NUMSUB', channel)[2]) > 0 then return 'read' end
end
cancel_turn(turn, ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8])
return 'cancelled'
