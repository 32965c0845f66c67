-- What a tenant holds: bytes by record (a turn, a conversation, a day's chains) until each expires.
-- The figures are what such a record takes at the most, measured; contents are added as they come.

local TURN_BYTES = 6000
local CONVERSATION_BYTES = 1500
local ACCEPTED_BYTES = 300
local CHAIN_BYTES = 350
local ENTRY_BYTES = 100
local EVENT_BYTES = 16
local STEP_BYTES = 2048
local HELD_SWEPT_MAX = 500
local HELD_SLACK_MS = 3600000
local UNHEARD_BYTES_MAX = 4194304

-- What grows often and by little is counted ahead, in steps.
local function in_steps(bytes)
  return math.ceil(bytes / STEP_BYTES) * STEP_BYTES
end

-- What a turn's log of so many bytes of events takes, and what is counted of it as long as it goes on:
-- a step at the least.
local function log_bytes(said, events)
  return said + events * EVENT_BYTES
end

local function counted_log(said, events)
  return math.max(in_steps(log_bytes(said, events)), STEP_BYTES)
end

-- Adds to records that are known, each a pair of its name and bytes. None falls below nothing.
local function hold_more(tenant, changes)
  local held, asked, fields = key('tenant_held', tenant), {}, {}
  for i, change in ipairs(changes) do asked[i] = change[1] end
  asked[#asked + 1] = 'total'
  local was = redis.call('HMGET', held, unpack(asked))
  local total = tonumber(was[#asked]) or 0
  for i, change in ipairs(changes) do
    local had = tonumber(was[i])
    local bytes = had and math.max(change[2], -had) or 0
    if bytes ~= 0 then
      fields[#fields + 1], fields[#fields + 2] = change[1], int(had + bytes)
      total = total + bytes
    end
  end
  if #fields > 0 then redis.call('HSET', held, 'total', int(total), unpack(fields)) end
end

-- Says when a record expires. The lists outlive what is in them, by up to HELD_SLACK_MS, so that they
-- need not be prolonged for each record; nor if another record is in them that expires later (at
-- `sure_until_ms`).
local function hold_until(tenant, record, until_ms, sure_until_ms)
  local held, listed = key('tenant_held', tenant), key('tenant_held_until', tenant)
  redis.call('ZADD', listed, int(until_ms), record)
  if sure_until_ms and sure_until_ms >= until_ms then return end
  local life = until_ms - now_ms()
  if redis.call('PTTL', held) >= life then return end
  redis.call('PEXPIRE', held, int(life + HELD_SLACK_MS))
  redis.call('PEXPIRE', listed, int(life + HELD_SLACK_MS))
end

-- Adds to a record; until_ms says (again) when it expires. One that is unknown, or forgotten
-- meanwhile, is only begun with until_ms, and never falls below nothing.
local function hold(tenant, record, bytes, until_ms)
  if not until_ms then return hold_more(tenant, {{record, bytes}}) end
  local held = key('tenant_held', tenant)
  if redis.call('HSETNX', held, record, int(math.max(bytes, 0))) == 1 then
    redis.call('HINCRBY', held, 'total', int(math.max(bytes, 0)))
  elseif bytes ~= 0 then
    hold_more(tenant, {{record, bytes}})
  end
  hold_until(tenant, record, until_ms)
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

-- What a tenant holds, what has expired and is not swept yet included.
local function held_in_all(tenant)
  return tonumber(redis.call('HGET', key('tenant_held', tenant), 'total')) or 0
end

-- The bytes that a tenant holds without what has expired. Only reads.
local function held_by(tenant, expired)
  local held, total = key('tenant_held', tenant), held_in_all(tenant)
  if #expired > 0 then
    for _, bytes in ipairs(redis.call('HMGET', held, unpack(expired))) do
      total = total - (tonumber(bytes) or 0)
    end
  end
  return total
end
