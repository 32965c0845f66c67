-- stop: ends what a conversation runs and costs; the conversation stays.
--
-- KEYS  1 conversation  2 idle
-- ARGV  1 conversation  2 tenant, or '' for an operator  3 reason  4 end event of a cancelled turn
--       5 control message for the owner  6 most events of a log  7 an ended turn's life (ms)
-- Returns {'ok', state, turn that is being cancelled or '', living owner or ''} or {'unknown'} (also
--       for another tenant's).
--
-- The flag of the running turn and the deadline in the past are the truth; the message is faster.
local held = redis.call('HMGET', KEYS[1], 'state', 'tenant', 'turn')
if not held[1] or (ARGV[2] ~= '' and held[2] ~= ARGV[2]) then return {'unknown'} end
write_even_when_full()
cancel_waiting(ARGV[1], ARGV[4], ARGV[3], ARGV[6], ARGV[7])
local turn = held[3] and read_turn(held[3])
local running = ''
if turn and not is_ended(turn.state) then
  running = turn.id
  redis.call('HSETNX', turn.key, 'cancel', ARGV[3])
elseif held[1] ~= 'cold' and held[1] ~= 'lost' then
  local now = int(now_ms())
  redis.call('ZADD', KEYS[2], now, ARGV[1])
  redis.call('HSET', KEYS[1], 'idle_at', now)
end
local owner = living_owner(ARGV[1])
if owner ~= '' then redis.call('PUBLISH', key('control_channel', owner), ARGV[5]) end
return {'ok', held[1], running, owner}
