-- delete: forgets a conversation, its memory and its turns; its host is to remove the files.
--
-- KEYS  conversation, todo, idle, lease
-- ARGS  conversation, tenant ('' for an operator), is_forced (also while turns run or wait),
--       cancelled (end event of a turn that is), reason, events_max, ended_ttl_ms,
--       order (control message for the owner), forgotten_at_once (turns)
-- Returns 'ok' host, owner, container | 'busy' turn | 'unknown' (also for another tenant's) | 'more' |
--       'called' called (a conversation of an agent that it called, which goes first)
--
-- 'more': so many turns are forgotten that the rest is left to the next call.
--
-- A turn that ends here keeps its log for a moment, so that its client sees the end. Who owned the
-- conversation finds its lease lost.
local held = redis.call('HMGET', K.conversation, 'state', 'tenant', 'turn', 'host', 'container', 'retention', 'caller')
if not held[1] or (A.tenant ~= '' and held[2] ~= A.tenant) then return {'unknown'} end
local running = held[3] and read_turn(held[3])
if running and is_ended(running.state) then running = nil end
local busy = running and running.id or redis.call('LINDEX', K.todo, 0)
if busy and A.is_forced ~= '1' then return {'busy', 'turn', busy} end

write_even_when_full()
for _, id in ipairs(redis.call('SMEMBERS', key('called', A.conversation))) do
  if redis.call('EXISTS', key('conversation', id)) == 1 then return {'called', 'called', id} end
end
if held[7] then redis.call('SREM', key('called', held[7]), A.conversation) end
local listed, most = key('conversation_turns', A.conversation), tonumber(A.forgotten_at_once)
local is_last = redis.call('LLEN', listed) <= most
for _, id in ipairs(redis.call('LRANGE', listed, 0, most - 1)) do
  local turn = read_turn(id)
  redis.call('LPOP', listed)
  if turn and not is_ended(turn.state) then
    redis.call('RPUSH', listed, id)
  elseif turn and turn.conversation == A.conversation then
    local idempotency = idempotency_of(turn)
    if idempotency then redis.call('UNLINK', idempotency) end
    redis.call('UNLINK', turn.key, key('turn_request', id), key('turn_heads', id),
      key('turn_events', id))
    hold_no_more(turn.tenant, id)
  end
end
if not is_last then return {'more'} end
cancel_waiting(A.conversation, A.cancelled, A.reason, A.events_max, A.ended_ttl_ms)
if running then
  local n = end_turn(running, 'cancelled', running.seq + 1, A.cancelled, A.reason, A.events_max, A.ended_ttl_ms)
  announce(running, '0', n, A.cancelled)
end
local owner = living_owner(A.conversation)
local made = key('conversation_made', A.conversation)
for _, file in ipairs(redis.call('HKEYS', made)) do let_file_go(file, now_ms()) end
redis.call('UNLINK', made)
for _, name in ipairs(belongings(A.conversation)) do redis.call('UNLINK', name) end
redis.call('DEL', K.conversation, K.todo, K.lease)
redis.call('ZREM', K.idle, A.conversation)
if held[2] then
  redis.call('ZREM', key('tenant_conversations', held[2]), A.conversation)
  hold_no_more(held[2], A.conversation)
end
if held[4] then
  local wipes = key('host_wipes', held[4])
  redis.call('SADD', wipes, A.conversation)
  redis.call('PEXPIRE', wipes,
    int(math.max(redis.call('PTTL', wipes), tonumber(held[6]) or 0, 86400000)))
end
if owner ~= '' then redis.call('PUBLISH', key('control_channel', owner), A.order) end
return {'ok', 'host', held[4] or '', 'owner', owner, 'container', held[5] or ''}
