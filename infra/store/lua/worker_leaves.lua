-- worker_leaves: removes a worker that leaves from the registry.
--
-- KEYS  workers, worker
-- ARGS  worker
-- Returns 'ok' left (workers of its host)
--
-- From then on it does not count as alive.
write_even_when_full()
local host = redis.call('HGET', K.worker, 'host')
if host then redis.call('ZREM', key('host_workers', host), A.worker) end
redis.call('ZREM', K.workers, A.worker)
redis.call('DEL', K.worker)
local left = host
  and redis.call('ZCOUNT', key('host_workers', host), '(' .. int(now_ms()), '+inf')
return {'ok', 'left', left or 0}
