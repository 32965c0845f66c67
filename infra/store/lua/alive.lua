-- alive: the workers whose last heartbeat is still good; the others leave the registry.
--
-- KEYS  1 workers
-- Returns for each {worker, its hash}.
local found = {}
local now = int(now_ms())
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local fields = redis.call('HGETALL', key('worker', id))
  if #fields > 0 then found[#found + 1] = {id, fields} end
end
return found
