-- restore: records a running container again after Redis has lost its record.
--
-- KEYS  conversation, lease, host_wipes, epoch
-- ARGS  conversation, host, container, fence (it was started with), idle_timeout_ms,
--       unknown_ttl_ms (of a conversation nobody knew)
-- Returns 'restored' | 'no'
--
-- That happens when Redis was emptied, or failed over to a replica without the newest writes: then the
-- container is older than all data here (epoch), or newer than its own record. Any other container
-- without a record is a leftover. Nothing changes for a conversation with an owner, or one that was
-- deleted or moved.
local fence = tonumber(A.fence)
local epoch = redis.call('GET', K.epoch)
local held = redis.call('HMGET', K.conversation, 'state', 'fence', 'container', 'host')
if redis.call('EXISTS', K.lease) == 1 then return {'no'} end
if redis.call('SISMEMBER', K.host_wipes, A.conversation) == 1 then return {'no'} end
if held[1] then
  if held[1] ~= 'cold' or held[3] or (held[4] and held[4] ~= A.host) then return {'no'} end
  if tonumber(held[2]) >= fence then return {'no'} end
elseif epoch and tonumber(epoch) < fence then
  return {'no'}
end
write_even_when_full()
local ms = int(now_ms())
if not held[1] then
  redis.call('HSET', K.conversation, 'state', 'cold', 'created', ms, 'turns', '0', 'idle_timeout', A.idle_timeout_ms)
  redis.call('PEXPIRE', K.conversation, A.unknown_ttl_ms)
end
redis.call('HSET', K.conversation, 'host', A.host, 'container', A.container, 'fence', A.fence,
  'last_active', ms)
redis.call('HDEL', K.conversation, 'hibernated', 'hibernated_at')
step_conversation(K.conversation, 'cold', 'starting')
step_conversation(K.conversation, 'starting', 'busy')
step_conversation(K.conversation, 'busy', 'warm')
settle(A.conversation)
return {'restored'}
