-- gives_way: whether a conversation without room beside it is to leave its place to another tenant's.
--
-- KEYS  conversation, todo, ring
-- ARGS  waited_ms (how long another tenant has to have waited),
--       giving_way (how many conversations of the worker do so already)
-- Returns 'gives_way' | 'stays' (it may take its next turn)
--
-- Asked before a warm conversation takes the next turn of its own FIFO, past the waiting room. Which
-- counts as its tenant's service then: those that wait are before it. One that gives way is to come back
-- to the host of its files, if that has room again soon, so its next turn counts as young once more.
-- It may give way with an empty FIFO: else a turn that comes between this question and the claim would
-- be taken past those that wait, and so would the one after it.
local held = redis.call('HMGET', K.conversation, 'tenant', 'turn')
local tenant, unfinished = held[1], held[2]
local first = redis.call('LINDEX', K.todo, 0)
if not tenant or unfinished then return {'stays'} end
write_even_when_full()
local now, waiting, giving = now_ms(), 0, tonumber(A.giving_way)
for _, other in ipairs(redis.call('ZRANGE', K.ring, 0, giving + 1)) do
  local oldest = redis.call('ZRANGE', key('room', other), 0, 0, 'WITHSCORES')
  if other ~= tenant and oldest[2] and now - tonumber(oldest[2]) >= tonumber(A.waited_ms) then
    waiting = waiting + 1
  end
end
if first then redis.call('ZADD', K.ring, 'XX', last_place(), tenant) end
if waiting <= giving then return {'stays'} end
if first and redis.call('EXISTS', key('turn', first)) == 1 then
  redis.call('HSET', key('turn', first), 'home_since', int(now))
end
return {'gives_way'}
