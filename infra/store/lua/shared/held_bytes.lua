-- What a tenant holds: bytes by record (a turn, a conversation, a day's chains) until each expires.
-- The figures are what such a record takes at the most, measured; contents are added as they come.

local TURN_BYTES = 6000
local CONVERSATION_BYTES = 1500
local ACCEPTED_BYTES = 300
local CHAIN_BYTES = 350
local ENTRY_BYTES = 100
local EVENT_BYTES = 16
local HELD_SWEPT_MAX = 500
local HELD_SLACK_MS = 3600000
local UNHEARD_BYTES_MAX = 4194304

-- Adds to a record; until_ms says (again) when it expires. One that is unknown, or forgotten
-- meanwhile, is only begun with until_ms, and never falls below nothing. The lists outlive what is
-- in them, by up to HELD_SLACK_MS, so that they need not be prolonged for each record; nor if another
-- record is in them that expires later (at `sure_until_ms`).
local function hold(tenant, record, bytes, until_ms, sure_until_ms)
  local held, listed = key('tenant_held', tenant), key('tenant_held_until', tenant)
  local was = redis.call('HMGET', held, record, 'total')
  local had, total = tonumber(was[1]), tonumber(was[2]) or 0
  if not had and not until_ms then return end
  bytes = math.max(bytes, -(had or 0))
  if bytes ~= 0 or not had then
    redis.call('HSET', held, record, int((had or 0) + bytes), 'total', int(total + bytes))
  end
  if not until_ms then return end
  redis.call('ZADD', listed, int(until_ms), record)
  if sure_until_ms and sure_until_ms >= until_ms then return end
  local life = until_ms - now_ms()
  if redis.call('PTTL', held) >= life then return end
  redis.call('PEXPIRE', held, int(life + HELD_SLACK_MS))
  redis.call('PEXPIRE', listed, int(life + HELD_SLACK_MS))
end

local function hold_no_more(tenant, record)
  local held = key('tenant_held', tenant)
  local bytes = tonumber(redis.call('HGET', held, record))
  if not bytes then return end
  redis.call('ZREM', key('tenant_held_until', tenant), record)
  redis.call('HDEL', held, record)
  if bytes ~= 0 then redis.call('HINCRBY', held, 'total', int(-bytes)) end
  if redis.call('HLEN', held) == 1 then redis.call('DEL', held) end
end

-- What an entry of a list of accepted prompts counts, when it comes and when it goes.
local function accepted_bytes(encoded)
  return math.max(ACCEPTED_BYTES, #encoded + ENTRY_BYTES)
end

-- The records that have expired, some hundreds at once.
local function expired_holds(tenant, now)
  return redis.call('ZRANGEBYSCORE', key('tenant_held_until', tenant), '-inf', int(now),
    'LIMIT', 0, HELD_SWEPT_MAX)
end

local function sweep_holds(tenant, expired)
  for _, record in ipairs(expired) do hold_no_more(tenant, record) end
end

-- The bytes that a tenant holds without what has expired. Only reads.
local function held_by(tenant, expired)
  local held = key('tenant_held', tenant)
  local total = tonumber(redis.call('HGET', held, 'total')) or 0
  if #expired > 0 then
    for _, bytes in ipairs(redis.call('HMGET', held, unpack(expired))) do
      total = total - (tonumber(bytes) or 0)
    end
  end
  return total
end
