-- beat: a worker says that it lives.
--
-- KEYS  workers, worker, epoch, host_workers
-- ARGS  worker, life_ms (how long it is good for), fields (of its hash, for each: name, value)
-- Returns 'ok' living
--
-- What was coming to the worker is in its own figures by now. The first beat in an empty Redis sets
-- the epoch.
write_even_when_full()
local now = now_ms()
local fields = {}
for _, field in ipairs(A.fields) do
  fields[#fields + 1] = field.name
  fields[#fields + 1] = field.value
end
redis.call('HSET', K.worker, 'beat', int(now), 'coming', '0', unpack(fields))
redis.call('PEXPIRE', K.worker, A.life_ms)
for _, index in ipairs({K.workers, K.host_workers}) do
  redis.call('ZADD', index, int(now + tonumber(A.life_ms)), A.worker)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', int(now))
end
redis.call('PEXPIRE', K.host_workers, WAITING_LIFE_MS)
redis.call('SETNX', K.epoch, int(now_us()))
return {'ok', 'living', redis.call('ZCARD', K.workers)}
