-- restore: puts a living container on record again that Redis knows nothing of any more.
--
-- KEYS  1 conversation  2 todo  3 idle  4 lease  5 host_wipes  6 epoch
-- ARGV  1 conversation  2 host  3 container  4 the fence it was started with  5 idle timeout (ms)
--       6 life of a conversation nobody knew (ms)
-- Returns {1} when it is on record now, else {0}.
--
-- Redis was emptied, or failed over to a replica that had not heard of it yet: then the container is
-- older than all that is here (epoch), or newer than its own record. Any other container without a
-- record is a leftover. Of an owner, a deleted or a moved conversation nothing is changed.
local fence = tonumber(ARGV[4])
local epoch = redis.call('GET', KEYS[6])
local held = redis.call('HMGET', KEYS[1], 'state', 'fence', 'container', 'host')
if redis.call('EXISTS', KEYS[4]) == 1 then return {0} end
if redis.call('SISMEMBER', KEYS[5], ARGV[1]) == 1 then return {0} end
if held[1] then
  if held[1] ~= 'cold' or held[3] or (held[4] and held[4] ~= ARGV[2]) then return {0} end
  if tonumber(held[2]) >= fence then return {0} end
elseif epoch and tonumber(epoch) < fence then
  return {0}
end
write_even_when_full()
local ms = int(now_ms())
if not held[1] then
  redis.call('HSET', KEYS[1], 'state', 'cold', 'created', ms, 'turns', '0', 'idle_timeout', ARGV[5])
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
end
redis.call('HSET', KEYS[1], 'host', ARGV[2], 'container', ARGV[3], 'fence', ARGV[4],
  'last_active', ms)
step_conversation(KEYS[1], 'cold', 'starting')
step_conversation(KEYS[1], 'starting', 'busy')
step_conversation(KEYS[1], 'busy', 'warm')
settle(ARGV[1])
return {1}
