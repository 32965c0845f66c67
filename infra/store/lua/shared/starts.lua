-- The starts under way on a host: conversations given to it a moment ago, and those whose agent
-- starts. One that has begun counts as long as its owner lives.

-- How long a start counts that was given and has not begun.
local START_GIVEN_MS = 5000

local function starts_under_way(host)
  local starts, now = key('host_starts', host), now_ms()
  redis.call('ZREMRANGEBYSCORE', starts, '-inf', int(now))
  local held, count = redis.call('ZRANGE', starts, 0, -1, 'WITHSCORES'), 0
  for i = 1, #held, 2 do
    if tonumber(held[i + 1]) - now <= START_GIVEN_MS or living_owner(held[i]) ~= '' then
      count = count + 1
    else
      redis.call('ZREM', starts, held[i])
    end
  end
  return count
end

local function add_start(host, conversation, life_ms)
  local starts = key('host_starts', host)
  redis.call('ZADD', starts, int(now_ms() + life_ms), conversation)
  redis.call('PEXPIRE', starts, WAITING_LIFE_MS)
end
