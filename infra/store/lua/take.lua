-- take: which conversation a worker with room is to place now, or whose business that is.
--
-- KEYS  1 ring  2 workers  3 the asking worker
-- ARGV  1 worker  2 its host  3 how long a turn waits for its conversation's host (ms)
--       4 memory a container takes at first (MB)
-- Returns {'taken', conversation, turn}, {'elsewhere', worker, turn}, {'none'} or {'full'}: nothing is
--       for this worker, nor has another one room.
--
-- Next is the tenant served longest ago, and of its conversations the one that waits longest. It leaves
-- the room: whoever it is given to acquires it. If that one dies, the sweep (unclaimed) puts it back.
--
-- Who gets it: while it is young, the host that has its files, if a worker there has room. Else the
-- asking worker, unless another is clearly less loaded: even with the turn it would be less so than
-- this one is without it. load = (used + coming) / slots; the counter `coming` spreads turns that are
-- asked for between two heartbeats, and their containers count with the memory an idle one takes.
-- Nobody is given the same turn twice without asking: it may have died, its heartbeat still being good.
--
-- Costs a few commands for each living worker.
local worker, host = ARGV[1], ARGV[2]
local ring = KEYS[1]

local function read_worker(id)
  local held = redis.call('HMGET', key('worker', id), 'host', 'state', 'slots', 'used', 'coming',
    'memory_mb', 'memory_needed_mb')
  if not held[1] then return nil end
  local slots, coming = math.max(tonumber(held[3]) or 1, 1), tonumber(held[5]) or 0
  local busy = (tonumber(held[4]) or 0) + coming
  local memory = tonumber(held[6])
  local fits = not memory
    or memory - coming * tonumber(ARGV[4]) >= (tonumber(held[7]) or 0)
  return {
    id = id, host = held[1], is_ready = held[2] == 'ready', slots = slots, busy = busy,
    load = busy / slots, fits = fits, has_room = fits and busy < slots,
  }
end

-- The others that could take a turn, of one host or (nil) of any; the least loaded one.
local function least_loaded(workers, wanted_host)
  local best = nil
  for _, other in ipairs(workers) do
    local may = other.is_ready and other.has_room and (not wanted_host or other.host == wanted_host)
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
local function choose(turn)
  local me = read_worker(worker)
    or {id = worker, host = host, is_ready = true, load = 0, has_room = true}
  local others = {}
  local given = redis.call('HGET', turn.key, 'given')
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. int(now_ms()), '+inf')) do
    local other = id ~= worker and id ~= given and read_worker(id)
    if other then others[#others + 1] = other end
  end
  local held = redis.call('HMGET', key('conversation', turn.conversation), 'host', 'turns')
  local is_young = now_ms() - turn.created <= tonumber(ARGV[3])
  local home = is_young and (tonumber(held[2]) or 0) > 0 and held[1]
  local best = home and least_loaded(others, home)
  if best and home ~= host then return best end
  if home == host and me.is_ready then
    return best and is_clearly_less_loaded(best, me) and best or me
  end
  best = best or least_loaded(others, nil)
  if best and (not me.is_ready or is_clearly_less_loaded(best, me)) then return best end
  return me.is_ready and me or nil
end

write_even_when_full()
while true do
  local tenant = redis.call('ZRANGE', ring, 0, 0)[1]
  if not tenant then return {'none'} end
  local room = key('room', tenant)
  local conversation = redis.call('ZRANGE', room, 0, 0)[1]
  local turn = conversation and waiting_for_worker(conversation)[1]
  if turn then
    local chosen = choose(turn)
    if not chosen then return {'full'} end
    leave_room(conversation, tenant)
    redis.call('ZADD', ring, 'XX', last_place(), tenant)
    local record = key('worker', chosen.id)
    if redis.call('EXISTS', record) == 1 then redis.call('HINCRBY', record, 'coming', 1) end
    if chosen.id == worker then return {'taken', conversation, turn.id} end
    redis.call('HSET', turn.key, 'given', chosen.id)
    return {'elsewhere', chosen.id, turn.id}
  end
  -- Stale: ended, forgotten, or owned again. Its owner finds what waits when it looks, or is told.
  if not conversation then
    redis.call('ZREM', ring, tenant)
  else
    local owner, first = living_owner(conversation), redis.call('LINDEX', key('todo', conversation), 0)
    leave_room(conversation, tenant)
    if owner ~= '' and first then return {'elsewhere', owner, first} end
  end
end
