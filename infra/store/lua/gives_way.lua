-- gives_way: whether a conversation without room beside it is to leave its place to another tenant's.
--
-- KEYS  1 conversation  2 todo  3 ring
-- ARGV  1 how long another tenant has to have waited (ms)  2 how many conversations of the worker give
--       way already
-- Returns {1} when it is, {0} when it may take its next turn.
--
-- Asked before a warm conversation takes the next turn of its own FIFO, past the waiting room. Which
-- counts as its tenant's service then: those that wait are before it. One that gives way is to come back
-- to the host of its files, if that has room again soon, so its next turn counts as young once more.
local tenant = redis.call('HGET', KEYS[1], 'tenant')
local first = redis.call('LINDEX', KEYS[2], 0)
if not tenant or not first then return {0} end
write_even_when_full()
local now, waiting, giving = now_ms(), 0, tonumber(ARGV[2])
for _, other in ipairs(redis.call('ZRANGE', KEYS[3], 0, giving + 1)) do
  local oldest = redis.call('ZRANGE', key('room', other), 0, 0, 'WITHSCORES')
  if other ~= tenant and oldest[2] and now - tonumber(oldest[2]) >= tonumber(ARGV[1]) then
    waiting = waiting + 1
  end
end
redis.call('ZADD', KEYS[3], 'XX', last_place(), tenant)
if waiting <= giving then return {0} end
if redis.call('EXISTS', key('turn', first)) == 1 then
  redis.call('HSET', key('turn', first), 'home_since', int(now))
end
return {1}
