-- append: logs a turn's new events under the owner's fence.
--
-- KEYS  conversation, turn, turn_events
-- ARGS  worker, fence, turn, events_max (of a log), bytes_max (its tenant may hold; 0: any number),
--       events (for each: n, payload)
-- Returns 'ok' newest | 'lost' | 'torn' newest | 'full' newest
--
-- 'torn': numbers before the first one are missing, for a failover can lose what was logged, and
-- events never leave a hole. 'full': the tenant would hold too much.
--
-- The event's number is the stream id, so Redis itself refuses doubles; numbers that are there are
-- skipped. XADD is the first write: a full Redis refuses the whole script. The hottest script.
local held = redis.call('HMGET', K.conversation, 'owner', 'fence', 'turn')
if held[1] ~= A.worker or held[2] ~= A.fence then return {'lost'} end
local was = redis.call('HMGET', K.turn, 'state', 'seq', 'said', 'tenant')
local state, seq, tenant = was[1], tonumber(was[2]) or 0, was[4]
if not state then return {'lost'} end
if is_ended(state) then return {'ok', 'newest', int(seq)} end
if held[3] ~= A.turn then return {'lost'} end

local first = A.events[1]
if first and tonumber(first.n) > seq + 1 then return {'torn', 'newest', int(seq)} end

local bytes, added = 0, 0
for _, event in ipairs(A.events) do
  event.n = tonumber(event.n)
  if event.n > seq then bytes, added = bytes + #event.payload, added + 1 end
end
local size = bytes + added * EVENT_BYTES
local bytes_max = tonumber(A.bytes_max)
if bytes_max > 0 then
  local total = tonumber(redis.call('HGET', key('tenant_held', tenant), 'total')) or 0
  if total + size > bytes_max and held_by(tenant, now_ms()) + size > bytes_max then
    return {'full', 'newest', int(seq)}
  end
end

local newest = seq
for _, event in ipairs(A.events) do
  local n = event.n
  if n > newest then
    redis.call('XADD', K.turn_events, 'MAXLEN', '~', A.events_max, int(n) .. '-0', 'e', event.payload)
    newest = n
  end
end
if newest > seq then
  redis.call('HSET', K.turn, 'seq', int(newest), 'said', int((tonumber(was[3]) or 0) + bytes))
  hold(tenant, A.turn, size)
  if seq == 0 then
    redis.call('PEXPIRE', K.turn_events, redis.call('PTTL', K.turn))
    note_started(K.turn, first.payload)
  end
  if state == 'claimed' then
    step_turn({key = K.turn, state = state}, 'running')
    redis.call('HSET', K.turn, 'started', int(now_ms()))
  end
end
return {'ok', 'newest', int(newest)}
