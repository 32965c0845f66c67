-- append: logs a turn's new events under the owner's fence.
--
-- KEYS  1 conversation  2 turn  3 turn_events
-- ARGV  1 worker  2 fence  3 turn  4 most events of a log, then for each event: number, JSON
-- Returns {'ok', newest number}, {'lost'}, or {'torn', newest number} when numbers before the first
-- one are missing: a failover can lose what was logged, and events never leave a hole.
--
-- The event's number is the stream id, so Redis itself refuses doubles; numbers that are there are
-- skipped. XADD is the first write: a full Redis refuses the whole script. The hottest script.
local held = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'turn')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then return {'lost'} end
local was = redis.call('HMGET', KEYS[2], 'state', 'seq')
local state, seq = was[1], tonumber(was[2]) or 0
if not state then return {'lost'} end
if is_ended(state) then return {'ok', int(seq)} end
if held[3] ~= ARGV[3] then return {'lost'} end

if #ARGV > 4 and tonumber(ARGV[5]) > seq + 1 then return {'torn', int(seq)} end

local newest = seq
for i = 5, #ARGV, 2 do
  local n = tonumber(ARGV[i])
  if n > newest then
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], int(n) .. '-0', 'e', ARGV[i + 1])
    newest = n
  end
end
if newest > seq then
  redis.call('HSET', KEYS[2], 'seq', int(newest))
  if seq == 0 then
    redis.call('PEXPIRE', KEYS[3], redis.call('PTTL', KEYS[2]))
    note_started(KEYS[2], ARGV[6])
  end
  if state == 'claimed' then
    step_turn({key = KEYS[2], state = state}, 'running')
    redis.call('HSET', KEYS[2], 'started', int(now_ms()))
  end
end
return {'ok', int(newest)}
