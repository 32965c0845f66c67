-- delete: forgets a conversation, its memory and its turns; its host is to remove the files.
--
-- KEYS  1 conversation  2 todo  3 idle  4 lease
-- ARGV  1 conversation  2 tenant, or '' for an operator  3 also while turns run or wait 0 | 1
--       4 end event of a cancelled turn  5 reason  6 most events of a log
--       7 life of a turn that ends now (ms)  8 control message for the owner
--       9 most turns that are forgotten at once
-- Returns {'ok', host or '', living owner or '', container or ''}, {'busy', turn}, {'unknown'} (also
--       for another tenant's), or {'more'}: so many turns are forgotten that the rest is left to the
--       next call.
--
-- A turn that ends here keeps its log for a moment, so that its client sees the end. Who owned the
-- conversation finds its lease lost.
local held = redis.call('HMGET', KEYS[1], 'state', 'tenant', 'turn', 'host', 'container', 'retention')
if not held[1] or (ARGV[2] ~= '' and held[2] ~= ARGV[2]) then return {'unknown'} end
local running = held[3] and read_turn(held[3])
if running and is_ended(running.state) then running = nil end
local busy = running and running.id or redis.call('LINDEX', KEYS[2], 0)
if busy and ARGV[3] ~= '1' then return {'busy', busy} end

write_even_when_full()
local listed, most = key('conversation_turns', ARGV[1]), tonumber(ARGV[9])
local is_last = redis.call('LLEN', listed) <= most
for _, id in ipairs(redis.call('LRANGE', listed, 0, most - 1)) do
  local turn = read_turn(id)
  redis.call('LPOP', listed)
  if turn and not is_ended(turn.state) then
    redis.call('RPUSH', listed, id)
  elseif turn and turn.conversation == ARGV[1] then
    local idempotency = idempotency_of(turn)
    if idempotency then redis.call('UNLINK', idempotency) end
    redis.call('UNLINK', turn.key, key('turn_request', id), key('turn_heads', id),
      key('turn_events', id))
    hold_no_more(turn.tenant, id)
  end
end
if not is_last then return {'more'} end
cancel_waiting(ARGV[1], ARGV[4], ARGV[5], ARGV[6], ARGV[7])
if running then
  local n = end_turn(running, 'cancelled', running.seq + 1, ARGV[4], ARGV[5], ARGV[6], ARGV[7])
  announce(running, '0', n, ARGV[4])
end
local owner = living_owner(ARGV[1])
for _, name in ipairs(belongings(ARGV[1])) do redis.call('UNLINK', name) end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[4])
redis.call('ZREM', KEYS[3], ARGV[1])
if held[2] then
  redis.call('ZREM', key('tenant_conversations', held[2]), ARGV[1])
  hold_no_more(held[2], ARGV[1])
end
if held[4] then
  local wipes = key('host_wipes', held[4])
  redis.call('SADD', wipes, ARGV[1])
  redis.call('PEXPIRE', wipes,
    int(math.max(redis.call('PTTL', wipes), tonumber(held[6]) or 0, 86400000)))
end
if owner ~= '' then redis.call('PUBLISH', key('control_channel', owner), ARGV[8]) end
return {'ok', held[4] or '', owner, held[5] or ''}
