-- worker_leaves: a worker says goodbye.
--
-- KEYS  1 workers  2 worker
-- ARGV  1 worker
-- Returns {how many workers of its host are left}. It is not alive any more from now on.
write_even_when_full()
local host = redis.call('HGET', KEYS[2], 'host')
if host then redis.call('ZREM', key('host_workers', host), ARGV[1]) end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
return {host and redis.call('ZCOUNT', key('host_workers', host), '(' .. int(now_ms()), '+inf') or 0}
