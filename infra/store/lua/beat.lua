-- beat: a worker says that it lives.
--
-- KEYS  1 workers  2 worker  3 epoch  4 host_workers
-- ARGV  1 worker  2 how long that is good for (ms), then field, value, ... of its hash
-- Returns {how many workers live}. What was coming to it is in its own figures by now. The first beat
-- in an empty Redis sets the epoch.
write_even_when_full()
local now = now_ms()
local fields = {}
for i = 3, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', KEYS[2], 'beat', int(now), 'coming', '0', unpack(fields))
redis.call('PEXPIRE', KEYS[2], ARGV[2])
for _, index in ipairs({KEYS[1], KEYS[4]}) do
  redis.call('ZADD', index, int(now + tonumber(ARGV[2])), ARGV[1])
  redis.call('ZREMRANGEBYSCORE', index, '-inf', int(now))
end
redis.call('PEXPIRE', KEYS[4], WAITING_LIFE_MS)
redis.call('SETNX', KEYS[3], int(now_us()))
return {redis.call('ZCARD', KEYS[1])}
