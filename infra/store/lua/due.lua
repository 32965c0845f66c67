-- due: conversations whose idle deadline has passed and that the asking worker should stop.
--
-- KEYS  idle
-- ARGS  most (beside the worker's own), worker ('' for all there are), host (the worker's),
--       owned (the worker's own, as far as it knows)
-- Returns 'ok' found (for each: conversation, owner, host)
--
-- `owner` is a living one, or ''. Forgotten conversations are dropped.
--
-- A worker should stop those it owns, and those without an owner whose container was on its host or
-- on a host without workers. All that it names are looked at, and LOOK_AT of the others. If there are
-- more, the time decides where to begin, so that entries that stay cannot hide the rest.
local LOOK_AT = 200
local now = int(now_ms())
local most, me = tonumber(A.most), A.worker

local lives = {}
local function is_alive(host)
  if lives[host] == nil then
    lives[host] = redis.call('ZCOUNT', key('host_workers', host), '(' .. now, '+inf') > 0
  end
  return lives[host]
end

local function is_mine(owner, host)
  if me == '' or owner == me then return true end
  return owner == '' and (host == '' or host == A.host or not is_alive(host))
end

local function looked_at()
  local count = redis.call('ZCOUNT', K.idle, '-inf', now)
  local first = count > LOOK_AT and now_us() % count or 0
  local ids = redis.call('ZRANGEBYSCORE', K.idle, '-inf', now, 'LIMIT', int(first), LOOK_AT)
  local rest = math.min(first, LOOK_AT - #ids)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.idle, '-inf', now, 'LIMIT', 0, int(rest))) do
    ids[#ids + 1] = id
  end
  return ids
end

local found = {}

local function look(id)
  local held = redis.call('HMGET', key('conversation', id), 'state', 'host')
  if held[1] then
    local owner, host = living_owner(id), held[2] or ''
    if is_mine(owner, host) then
      found[#found + 1] = {'conversation', id, 'owner', owner, 'host', host}
    end
  else
    redis.call('ZREM', K.idle, id)
  end
end

local is_own = {}
for _, id in ipairs(A.owned) do
  is_own[id] = true
  local deadline = tonumber(redis.call('ZSCORE', K.idle, id))
  if deadline and deadline <= tonumber(now) then look(id) end
end
most = most + #found
for _, id in ipairs(looked_at()) do
  if #found >= most then break end
  if not is_own[id] then look(id) end
end
return {'ok', 'found', found}
