-- append: logs new events of any number of turns, each under its owner's fence.
--
-- KEYS  none
-- ARGS  events_max (of a log), bytes_max (a tenant may hold; 0: any number),
--       runs (for each: conversation, worker, fence, turn, first, last, events)
-- Returns 'ok' outcomes (of each run: 'ok', 'lost', 'torn' or 'full'), newest
--
-- A run is the events first to last of a turn, joined by line breaks, and becomes one entry: its id is
-- the last number, its field `e` if it is a single event, else `r`. What befalls one turn touches no
-- other. `newest` is the number of the turn's last logged event.
--
-- 'torn': numbers before the first one are missing, for a failover can lose what was logged, and
-- events never leave a hole. 'full': the tenant would hold too much.
--
-- The last number is the stream id, so Redis itself refuses doubles; of a run that is there in part
-- the rest is logged. XADD is the first write: a full Redis refuses the whole script. The hottest
-- script.
local bytes_max = tonumber(A.bytes_max)

-- Events without the first `count` of them.
local function behind(events, count)
  local from = 1
  for _ = 1, count do from = string.find(events, '\n', from, true) + 1 end
  return string.sub(events, from)
end

local function is_full(tenant, size)
  if bytes_max == 0 then return false end
  return held_in_all(tenant) + size > bytes_max and held_by(tenant, expired_holds(tenant, now_ms())) + size > bytes_max
end

local function append(run)
  local held = redis.call('HMGET', key('conversation', run.conversation), 'owner', 'fence', 'turn')
  if held[1] ~= run.worker or held[2] ~= run.fence then return 'lost', 0 end
  local turn_key = key('turn', run.turn)
  local was = redis.call('HMGET', turn_key, 'state', 'seq', 'said', 'tenant', 'expires')
  local state, seq, said, tenant = was[1], tonumber(was[2]) or 0, tonumber(was[3]) or 0, was[4]
  if not state then return 'lost', 0 end
  if is_ended(state) then return 'ok', seq end
  if held[3] ~= run.turn then return 'lost', 0 end

  local first, last, events = tonumber(run.first), tonumber(run.last), run.events
  if first > seq + 1 then return 'torn', seq end
  if last <= seq then return 'ok', seq end
  if first <= seq then
    events = behind(events, seq + 1 - first)
    first = seq + 1
  end

  local breaks = last - first
  local bytes = #events - breaks
  local more = counted_log(said + bytes, last) - counted_log(said, seq)
  if more > 0 and is_full(tenant, more) then return 'full', seq end

  local log, oldest = key('turn_events', run.turn), math.max(0, last - tonumber(A.events_max))
  redis.call('XADD', log, 'MINID', '~', int(oldest) .. '-0', int(last) .. '-0',
    breaks == 0 and 'e' or 'r', events)
  local fields = {'seq', int(last), 'said', int(said + bytes)}
  if more > 0 then hold(tenant, run.turn, more) end
  if seq == 0 then
    redis.call('PEXPIREAT', log, was[5] or int(now_ms() + redis.call('PTTL', turn_key)))
    add_started(fields, breaks == 0 and events or string.match(events, '^[^\n]*'))
  end
  if state == 'claimed' then
    fields[#fields + 1], fields[#fields + 2] = 'started', int(now_ms())
    step_turn({key = turn_key, state = state}, 'running', fields)
  else
    redis.call('HSET', turn_key, unpack(fields))
  end
  return 'ok', last
end

local outcomes, newest = {}, {}
for i, run in ipairs(A.runs) do outcomes[i], newest[i] = append(run) end
return {'ok', 'outcomes', outcomes, 'newest', newest}
