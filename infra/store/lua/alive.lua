-- alive: the workers of an index whose last heartbeat is still good.
--
-- KEYS  1 workers, or host_workers
-- Returns for each {worker, its hash}.
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. int(now_ms()), '+inf')) do
  local fields = redis.call('HGETALL', key('worker', id))
  if #fields > 0 then found[#found + 1] = {id, fields} end
end
return found
