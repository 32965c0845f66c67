-- acquire: takes a conversation's lease, with a fence that only grows.
--
-- KEYS  1 conversation  2 lease
-- ARGV  1 worker  2 its host  3 the lease's life (ms)  4 life of a conversation nobody knew (ms)
--       5 conversation  6 newest fence that the worker has been given
-- Returns {'ok', fence} or {'held', owner}.
--
-- fence = max(old + 1, TIME in us, that one + 1): asynchronous replication may step a counter back at
-- a failover, and the new primary's clock may be behind the old one's. `host` names where the conversation's container is, so it stays with a
-- container that is on record and follows the owner otherwise. What is owned waits for no worker.
local worker, host = ARGV[1], ARGV[2]
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= worker then return {'held', holder} end
local held = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'state', 'container', 'tenant')
write_even_when_full()
if held[5] then leave_room(ARGV[5], held[5]) end
if holder and held[1] == worker then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  return {'ok', held[2]}
end
local now = now_us()
local fence = int(math.max((tonumber(held[2]) or 0) + 1, now, (tonumber(ARGV[6]) or 0) + 1))
redis.call('SET', KEYS[2], worker, 'PX', ARGV[3])
redis.call('HSET', KEYS[1], 'owner', worker, 'owner_host', host, 'fence', fence)
if not held[4] then redis.call('HSET', KEYS[1], 'host', host) end
if not held[3] then
  local ms = int(math.floor(now / 1000))
  redis.call('HSET', KEYS[1], 'state', 'cold', 'created', ms, 'last_active', ms, 'turns', '0')
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return {'ok', fence}
