-- finish: the end event, no sealed key, the turn closed; what its conversation does next.
--
-- KEYS  1 conversation
-- ARGV  1 conversation  2 worker  3 fence  4 turn  5 number of the end event  6 end event
--       7 terminal state  8 reason or ''  9 usage JSON  10 idle timeout (ms)
--       11 most events of a log  12 an ended turn's life (ms)
--       13 what the agent made of the turn: 'nothing', 'unknown' or 'told'
--       14 the transcript entry the turn ended at, or ''
--       15 how its answer begins, as it is kept, or ''
--       16 what the gateway metered (JSON, see book in the prelude), or ''
-- Returns {'ok', 1 when another turn waits}, {'lost'}, {'illegal', state}, or {'torn', newest number}
-- when events before the end are missing (see append).
--
-- Finishing twice is harmless. A turn may end done in the same breath as its first event: then it
-- passes through running.
--
-- The list of accepted prompts follows the agent's memory. The turn's base (start) says what that was
-- to become; that its first event was logged says that the agent's session took the prompt in. That
-- session lives on if the agent told the end itself, or if entries of it were stored during the turn.
-- Otherwise nobody knows what the agent remembers, and an entry that equals no prompt says so.
-- Messages it has not heard stand at the list's end, until a turn ends that was given them too.
if not is_owner(KEYS[1], ARGV[2], ARGV[3]) then return {'lost'} end
local turn = read_turn(ARGV[4])
local unfinished = redis.call('HGET', KEYS[1], 'turn')
if turn and is_ended(turn.state) then
  return {'ok', math.min(redis.call('LLEN', key('todo', ARGV[1])), 1)}
end
if not turn or unfinished ~= turn.id then return {'lost'} end
if tonumber(ARGV[5]) > turn.seq + 1 then return {'torn', int(turn.seq)} end
local new = ARGV[7]
local through = not TURN_NEXT[turn.state][new]
if through and not (TURN_NEXT[turn.state].running and TURN_NEXT.running[new]) then
  return {'illegal', turn.state}
end

local function accept(digest, answer, checkpoint, tails)
  local entry = {digest = digest, turn = turn.id}
  if answer and answer ~= '' then entry.answer = answer end
  if checkpoint and checkpoint ~= '' then entry.checkpoint = checkpoint end
  if tails and #tails > 0 then entry.tails = tails end
  local encoded = cjson.encode(entry)
  redis.call('RPUSH', key('accepted', ARGV[1]), encoded)
  hold(turn.tenant, ARGV[1], accepted_bytes(encoded))
end

-- Leaves the first `keep` entries of the list, and those from `known` on to be put there again.
local function forget(list, keep, known)
  local bytes = 0
  if not known or known > keep then
    for _, entry in ipairs(redis.call('LRANGE', list, int(keep), int((known or 0) - 1))) do
      bytes = bytes + accepted_bytes(entry)
    end
  end
  hold(turn.tenant, ARGV[1], -bytes)
  if keep > 0 then
    redis.call('LTRIM', list, 0, int(keep - 1))
  else
    redis.call('DEL', list)
  end
end

-- The messages of these entries are in the memory now, or are of no use any more.
local function hear(entries)
  local unheard = key('unheard', ARGV[1])
  for _, entry in ipairs(entries) do
    local kept = cjson.decode(entry)
    if kept.unheard then
      hold(turn.tenant, ARGV[1], -redis.call('HSTRLEN', unheard, kept.turn) - ENTRY_BYTES)
      redis.call('HDEL', unheard, kept.turn)
    end
  end
end

-- They go with the turn's end.
local heads = cjson.decode(redis.call('GET', key('turn_heads', turn.id)) or '[]')
local stood_on = redis.call('HGET', turn.key, 'base')

local function remember()
  if not stood_on or ARGV[13] == 'nothing' then return end
  local base, list = cjson.decode(stood_on), key('accepted', ARGV[1])
  local held = redis.call('HMGET', turn.key, 'sdk_session', 'remembered')
  local session, remembered = held[1], held[2]
  -- Messages that were stopped, in the queue, after it was decided on what the turn is to stand.
  local later = base.known and redis.call('LRANGE', list, int(base.known), -1) or {}
  if base.known and base.known > base.keep then
    hear(redis.call('LRANGE', list, int(base.keep), int(base.known - 1)))
  end
  if base.keep > 0 or base.known or base.kind ~= 'continue' then
    forget(list, base.keep, base.known)
  end
  if not session or not (ARGV[13] == 'told' or remembered == session) then
    accept('')
  else
    for i, digest in ipairs(base.before) do accept(digest, heads[i]) end
    accept(base.digest, ARGV[15], ARGV[14], base.tails)
    replace_session(ARGV[1], session)
  end
  for _, entry in ipairs(later) do redis.call('RPUSH', list, entry) end
end

write_even_when_full()
if through then step_turn(turn, 'running') end
local reason = ARGV[8]
if reason == '' and new == 'cancelled' then reason = turn.cancel or '' end
if new == 'cancelled' and ARGV[13] == 'nothing' and turn.state == 'running' then keep_unheard(turn) end
end_turn(turn, new, tonumber(ARGV[5]), ARGV[6], reason, ARGV[11], ARGV[12])
if ARGV[16] ~= '' then book(turn, cjson.decode(ARGV[16])) end
-- What was metered, on this host or another, counts more than what the agent says.
if redis.call('HEXISTS', turn.key, 'metered') == 0 then
  redis.call('HSET', turn.key, 'usage', ARGV[9])
end

redis.call('HDEL', KEYS[1], 'turn')
redis.call('HINCRBY', KEYS[1], 'turns', 1)
redis.call('HSET', KEYS[1], 'last_active', int(now_ms()), 'idle_timeout', ARGV[10])
remember()
local held = redis.call('HMGET', KEYS[1], 'state', 'retention', 'lane')
if held[2] then
  keep_for(ARGV[1], turn.tenant, held[2])
  list_conversation(ARGV[1], turn.tenant, held[3], now_ms(), held[2])
end
if held[1] == 'busy' then step_conversation(KEYS[1], 'busy', 'warm') end
return {'ok', settle(ARGV[1])}
