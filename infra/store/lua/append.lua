-- append: logs a turn's new events under the owner's fence.
--
-- KEYS  1 conversation  2 turn  3 turn_events
-- ARGV  1 worker  2 fence  3 turn  4 most events of a log  5 bytes its tenant may hold (0: any number),
--       then for each event: number, JSON
-- Returns {'ok', newest number}, {'lost'}, {'torn', newest number} when numbers before the first
-- one are missing: a failover can lose what was logged, and events never leave a hole; or
-- {'full', newest number} when the tenant would hold too much.
--
-- The event's number is the stream id, so Redis itself refuses doubles; numbers that are there are
-- skipped. XADD is the first write: a full Redis refuses the whole script. The hottest script.
local held = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'turn')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return {'lost'} end
local was = redis.call('HMGET', KEYS[2], 'state', 'seq', 'said', 'tenant')
local state, seq, tenant = was[1], tonumber(was[2]) or 0, was[4]
if not state then return {'lost'} end
if is_ended(state) then return {'ok', int(seq)} end
if held[3] ~= ARGV[3] then return {'lost'} end

if #ARGV > 5 and tonumber(ARGV[6]) > seq + 1 then return {'torn', int(seq)} end

local bytes, added = 0, 0
for i = 6, #ARGV, 2 do
  if tonumber(ARGV[i]) > seq then bytes, added = bytes + #ARGV[i + 1], added + 1 end
end
local size = bytes + added * EVENT_BYTES
local bytes_max = tonumber(ARGV[5])
if bytes_max > 0 then
  local total = tonumber(redis.call('HGET', key('tenant_held', tenant), 'total')) or 0
  if total + size > bytes_max and held_by(tenant, now_ms()) + size > bytes_max then
    return {'full', int(seq)}
  end
end

local newest = seq
for i = 6, #ARGV, 2 do
  local n = tonumber(ARGV[i])
  if n > newest then
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], int(n) .. '-0', 'e', ARGV[i + 1])
    newest = n
  end
end
if newest > seq then
  redis.call('HSET', KEYS[2], 'seq', int(newest), 'said', int((tonumber(was[3]) or 0) + bytes))
  hold(tenant, ARGV[3], size)
  if seq == 0 then
    redis.call('PEXPIRE', KEYS[3], redis.call('PTTL', KEYS[2]))
    note_started(KEYS[2], ARGV[7])
  end
  if state == 'claimed' then
    step_turn({key = KEYS[2], state = state}, 'running')
    redis.call('HSET', KEYS[2], 'started', int(now_ms()))
  end
end
return {'ok', int(newest)}
