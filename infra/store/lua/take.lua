-- take: which conversation a worker with room is to place now, or whose business that is.
--
-- KEYS  ring, workers
-- ARGS  worker, host, home_patience_ms (how long a turn waits for its conversation's host),
--       container_mb (memory that a container takes at first), has_room (the asking worker itself),
--       spares (its ready ones that no conversation is about to claim)
-- Returns 'taken' conversation, turn | 'elsewhere' worker, turn | 'none' | 'full'
--
-- 'full': nothing is for this worker, nor has another one that was looked at room.
--
-- Next is the tenant served longest ago, and of its conversations the one that waits longest. It leaves
-- the room: the worker it is given to acquires it. If that one dies, the sweep (unclaimed) puts it back.
--
-- Who gets it: while it is young, the host that has its files, if a worker there has room. Else the
-- asking worker, unless another is clearly less loaded: even with the turn it would be less so than
-- this one is without it. load = (used + coming) / slots; the counter `coming` spreads turns that are
-- asked for between two heartbeats, and their containers count with the memory an idle one takes.
-- Nobody is given the same turn twice without asking: it may have died, its heartbeat still being good.
-- A host that starts as many agents as it may has no room for one that is to be started, unless the
-- worker has a spare: to claim it is no start.
--
-- Costs a few commands for each worker that is looked at. Up to LOOK_AT_ALL they are all; of more, two
-- (the better of two is nearly as good as the best of all), or LOOK_AT_ALL when the asking one has
-- no room. Which ones follows from the time, so that a run with a given clock can be repeated.
local LOOK_AT_ALL = 16
local worker, host, ring = A.worker, A.host, K.ring

local function read_worker(id)
  local held = redis.call('HMGET', key('worker', id), 'host', 'state', 'slots', 'used', 'coming',
    'memory_mb', 'memory_needed_mb', 'starts_max', 'spares')
  if not held[1] then return nil end
  local slots, coming = math.max(tonumber(held[3]) or 1, 1), tonumber(held[5]) or 0
  local busy = (tonumber(held[4]) or 0) + coming
  local memory = tonumber(held[6])
  local fits = not memory
    or memory - coming * tonumber(A.container_mb) >= (tonumber(held[7]) or 0)
  return {
    id = id, host = held[1], is_ready = held[2] == 'ready', slots = slots, busy = busy,
    load = busy / slots, has_room = fits and busy < slots, starts_max = tonumber(held[8]),
    spares = (tonumber(held[9]) or 0) - coming,
  }
end

-- Up to `most` of the living workers of an index.
local function living(index, most)
  local now = '(' .. int(now_ms())
  local count = redis.call('ZCOUNT', index, now, '+inf')
  if count <= most then return redis.call('ZRANGEBYSCORE', index, now, '+inf') end
  local found, first = {}, now_us() % count
  local step = math.max(math.floor(count / most), 1)
  for i = 0, most - 1 do
    local rank = (first + i * step) % count
    found[#found + 1] = redis.call('ZREVRANGE', index, rank, rank)[1]
  end
  return found
end

-- The least loaded of an index's workers that could take the turn.
local function least_loaded(index, most, turn, may_start)
  local best, given = nil, redis.call('HGET', turn.key, 'given')
  for _, id in ipairs(living(index, most)) do
    local other = id ~= worker and id ~= given and read_worker(id)
    local may = other and other.is_ready and other.has_room and may_start(other)
    if may and (not best or other.load < best.load
      or (other.load == best.load and other.slots - other.busy > best.slots - best.busy)) then
      best = other
    end
  end
  return best
end

local function is_clearly_less_loaded(other, than)
  if not than.has_room then return true end
  return (other.busy + 1) / other.slots < than.load
end

-- nil: nobody. Not being registered (yet, or for a moment) is no obstacle for who asks.
local function choose(turn, is_there)
  local under_way = {}
  local function may_start(one)
    if not one.starts_max or is_there(one) or one.spares > 0 then return true end
    under_way[one.host] = under_way[one.host] or starts_under_way(one.host)
    return under_way[one.host] < one.starts_max
  end

  local me = read_worker(worker)
    or {id = worker, host = host, is_ready = true, load = 0, has_room = true}
  me.spares = tonumber(A.spares)
  local can_take = me.is_ready and A.has_room == '1' and may_start(me)
  me.has_room = me.has_room and can_take
  local held = redis.call('HMGET', key('conversation', turn.conversation), 'host', 'turns')
  local since = tonumber(redis.call('HGET', turn.key, 'home_since')) or turn.created
  local is_young = now_ms() - since <= tonumber(A.home_patience_ms)
  local home = is_young and (tonumber(held[2]) or 0) > 0 and held[1]
  local best = home and least_loaded(key('host_workers', home), LOOK_AT_ALL, turn, may_start)
  if best and home ~= host then return best end
  if home == host and can_take then
    return best and is_clearly_less_loaded(best, me) and best or me
  end
  local most = me.has_room and redis.call('ZCARD', K.workers) > LOOK_AT_ALL and 2 or LOOK_AT_ALL
  best = best or least_loaded(K.workers, most, turn, may_start)
  if best and (not can_take or is_clearly_less_loaded(best, me)) then return best end
  return can_take and me or nil
end

local function leave_for(chosen, turn, tenant, is_there)
  leave_room(turn.conversation, tenant)
  redis.call('ZADD', ring, 'XX', last_place(), tenant)
  local record = key('worker', chosen.id)
  if redis.call('EXISTS', record) == 1 then redis.call('HINCRBY', record, 'coming', 1) end
  if chosen.starts_max and not is_there(chosen) and chosen.spares <= 0 then
    add_start(chosen.host, turn.conversation, START_GIVEN_MS)
  end
end

write_even_when_full()
while true do
  local tenant = redis.call('ZRANGE', ring, 0, 0)[1]
  if not tenant then return {'none'} end
  local room = key('room', tenant)
  local conversation = redis.call('ZRANGE', room, 0, 0)[1]
  local turn = conversation and waiting_for_worker(conversation)[1]
  if turn then
    local held = redis.call('HMGET', key('conversation', conversation), 'host', 'container')
    -- A container that is there already needs no start.
    local function is_there(one) return held[2] and held[1] == one.host end
    local chosen = choose(turn, is_there)
    if not chosen then return {'full'} end
    leave_for(chosen, turn, tenant, is_there)
    if chosen.id == worker then return {'taken', 'conversation', conversation, 'turn', turn.id} end
    redis.call('HSET', turn.key, 'given', chosen.id)
    return {'elsewhere', 'worker', chosen.id, 'turn', turn.id}
  end
  -- Stale: ended, forgotten, or owned again. Its owner finds what waits when it looks, or is told.
  if not conversation then
    redis.call('ZREM', ring, tenant)
  else
    local owner, first = living_owner(conversation), redis.call('LINDEX', key('todo', conversation), 0)
    leave_room(conversation, tenant)
    if owner ~= '' and first then return {'elsewhere', 'worker', owner, 'turn', first} end
  end
end
