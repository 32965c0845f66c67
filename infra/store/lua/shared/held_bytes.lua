-- What a tenant holds: bytes by record (a turn, a conversation, a day's chains) until each expires.
-- The figures are what such a record takes at the most, measured; contents are added as they come.

local TURN_BYTES = 6000
local CONVERSATION_BYTES = 1500
local ACCEPTED_BYTES = 300
local CHAIN_BYTES = 350
local ENTRY_BYTES = 100
local EVENT_BYTES = 16
local HELD_SWEPT_MAX = 500
local UNHEARD_BYTES_MAX = 4194304

-- Adds to a record; until_ms says (again) when it expires. One that is unknown, or forgotten
-- meanwhile, is only begun with until_ms, and never falls below nothing.
local function hold(tenant, record, bytes, until_ms)
  local held = key('tenant_held', tenant)
  local had = redis.call('HGET', held, record)
  if not had and not until_ms then return end
  bytes = math.max(bytes, -(tonumber(had) or 0))
  if bytes ~= 0 then
    redis.call('HINCRBY', held, record, int(bytes))
    redis.call('HINCRBY', held, 'total', int(bytes))
  elseif not had then
    redis.call('HSET', held, record, '0')
  end
  if not until_ms then return end
  redis.call('ZADD', key('tenant_held_until', tenant), int(until_ms), record)
  local life = int(math.max(redis.call('PTTL', held), until_ms - now_ms()))
  redis.call('PEXPIRE', held, life)
  redis.call('PEXPIRE', key('tenant_held_until', tenant), life)
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

local function sweep_holds(tenant, now)
  for _, record in ipairs(expired_holds(tenant, now)) do hold_no_more(tenant, record) end
end

-- The bytes that a tenant holds. Only reads.
local function held_by(tenant, now)
  local held = key('tenant_held', tenant)
  local total = tonumber(redis.call('HGET', held, 'total')) or 0
  local expired = expired_holds(tenant, now)
  if #expired > 0 then
    for _, bytes in ipairs(redis.call('HMGET', held, unpack(expired))) do
      total = total - (tonumber(bytes) or 0)
    end
  end
  return total
end
