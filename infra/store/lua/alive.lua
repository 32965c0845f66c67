-- alive: the workers of an index whose last heartbeat is still good.
--
-- KEYS  index (workers, or host_workers)
-- Returns 'ok' workers (for each: worker, record)
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.index, '(' .. int(now_ms()), '+inf')) do
  local fields = redis.call('HGETALL', key('worker', id))
  if #fields > 0 then found[#found + 1] = {'worker', id, 'record', fields} end
end
return {'ok', 'workers', found}
