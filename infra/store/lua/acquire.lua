-- acquire: takes a conversation's lease, with a fence that only grows.
--
-- KEYS  conversation, lease
-- ARGS  conversation, worker, host, lease_ms, unknown_ttl_ms (of a conversation nobody knew),
--       above (the newest fence that the worker has been given)
-- Returns 'ok' fence | 'held' owner
--
-- fence = max(old + 1, TIME in us, that one + 1): asynchronous replication may step a counter back at
-- a failover, and the new primary's clock may be behind the old one's. `host` names where the conversation's container is, so it stays with a
-- container that is on record and follows the owner otherwise. What is owned waits for no worker.
local worker = A.worker
local holder = redis.call('GET', K.lease)
if holder and holder ~= worker then return {'held', 'owner', holder} end
local held = redis.call('HMGET', K.conversation, 'owner', 'fence', 'state', 'container', 'tenant')
write_even_when_full()
if held[5] then leave_room(A.conversation, held[5]) end
if holder and held[1] == worker then
  redis.call('PEXPIRE', K.lease, A.lease_ms)
  return {'ok', 'fence', held[2]}
end
local now = now_us()
local fence = int(math.max((tonumber(held[2]) or 0) + 1, now, (tonumber(A.above) or 0) + 1))
redis.call('SET', K.lease, worker, 'PX', A.lease_ms)
redis.call('HSET', K.conversation, 'owner', worker, 'owner_host', A.host, 'fence', fence)
if not held[4] then redis.call('HSET', K.conversation, 'host', A.host) end
if not held[3] then
  local ms = int(math.floor(now / 1000))
  redis.call('HSET', K.conversation, 'state', 'cold', 'created', ms, 'last_active', ms, 'turns', '0')
  redis.call('PEXPIRE', K.conversation, A.unknown_ttl_ms)
end
return {'ok', 'fence', fence}
