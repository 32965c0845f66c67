-- finish: the end event, no sealed key, the turn closed; what its conversation does next.
--
-- KEYS  conversation
-- ARGS  conversation, worker, fence, turn, n (of the end event), end_event, state, reason, usage,
--       idle_timeout_ms, events_max, ended_ttl_ms,
--       memory (what the agent made of the turn: nothing, unknown or told),
--       base (of a turn that submit began, see start: it goes on from all it found),
--       checkpoint (the transcript entry the turn ended at),
--       answer_heads (how its answer begins, as it is kept),
--       metered (a report of the gateway, see book)
-- Returns 'ok' is_next_waiting | 'lost' | 'illegal' state |
--       'torn' newest (events before the end are missing, see append)
--
-- Finishing twice is harmless. A turn may end done in the same breath as its first event: then it
-- passes through running.
--
-- The list of accepted prompts follows the agent's memory. The turn's base (start) says what that was
-- to become; that its first event was logged says that the agent's session took the prompt in. That
-- session lives on if the agent told the end itself, or if entries of it were stored during the turn.
-- Otherwise nobody knows what the agent remembers, and an entry that equals no prompt says so.
-- Messages it has not heard stand at the list's end, until a turn ends that was given them too.
if not is_owner(K.conversation, A.worker, A.fence) then return {'lost'} end
local turn = read_turn(A.turn)
local unfinished = redis.call('HGET', K.conversation, 'turn')
if turn and is_ended(turn.state) then
  return {'ok', 'is_next_waiting', math.min(redis.call('LLEN', key('todo', A.conversation)), 1)}
end
if not turn or unfinished ~= turn.id then return {'lost'} end
if tonumber(A.n) > turn.seq + 1 then return {'torn', 'newest', int(turn.seq)} end
local new = A.state
local through = not TURN_NEXT[turn.state][new]
if through and not (TURN_NEXT[turn.state].running and TURN_NEXT.running[new]) then
  return {'illegal', 'state', turn.state}
end

local function accept(digest, answer, checkpoint, tails, past)
  local entry = {digest = digest, turn = turn.id}
  if answer and answer ~= '' then entry.answer = answer end
  if checkpoint and checkpoint ~= '' then entry.checkpoint = checkpoint end
  if tails and #tails > 0 then entry.tails = tails end
  entry.past = past
  local encoded = cjson.encode(entry)
  redis.call('RPUSH', key('accepted', A.conversation), encoded)
  hold(turn.tenant, A.conversation, accepted_bytes(encoded))
end

-- Leaves the first `keep` entries of the list, and those from `known` on to be put there again.
local function forget(list, keep, known)
  local bytes = 0
  if not known or known > keep then
    for _, entry in ipairs(redis.call('LRANGE', list, int(keep), int((known or 0) - 1))) do
      bytes = bytes + accepted_bytes(entry)
    end
  end
  hold(turn.tenant, A.conversation, -bytes)
  if keep > 0 then
    redis.call('LTRIM', list, 0, int(keep - 1))
  else
    redis.call('DEL', list)
  end
end

-- The messages of these entries are in the memory now, or no longer needed.
local function hear(entries)
  local unheard = key('unheard', A.conversation)
  for _, entry in ipairs(entries) do
    local kept = cjson.decode(entry)
    if kept.unheard then
      hold(turn.tenant, A.conversation, -redis.call('HSTRLEN', unheard, kept.turn) - ENTRY_BYTES)
      redis.call('HDEL', unheard, kept.turn)
    end
  end
end

-- They go with the turn's end.
local heads = cjson.decode(redis.call('GET', key('turn_heads', turn.id)) or '[]')
local stood_on = redis.call('HMGET', turn.key, 'base', 'begun', 'known')

local function base_of_turn()
  if stood_on[1] or A.base ~= '' then return cjson.decode(stood_on[1] or A.base) end
  local known = tonumber(stood_on[3])
  -- Who ends it cannot read its request: its prompt may be in the memory all the same.
  return stood_on[2] and {kind = 'continue', keep = known, known = known, before = {}, digest = ''}
end

local function remember()
  local base, list = base_of_turn(), key('accepted', A.conversation)
  if not base or A.memory == 'nothing' then return end
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
  if not session or not (A.memory == 'told' or remembered == session) then
    accept('')
  else
    for i, digest in ipairs(base.before) do accept(digest, heads[i]) end
    accept(base.digest, A.answer_heads, A.checkpoint, base.tails, base.past)
    replace_session(A.conversation, session)
  end
  for _, entry in ipairs(later) do redis.call('RPUSH', list, entry) end
end

write_even_when_full()
if through then step_turn(turn, 'running') end
local reason = A.reason
if reason == '' and new == 'cancelled' then reason = turn.cancel or '' end
if new == 'cancelled' and A.memory == 'nothing' and turn.state == 'running' then keep_unheard(turn) end
end_turn(turn, new, tonumber(A.n), A.end_event, reason, A.events_max, A.ended_ttl_ms)
if A.metered ~= '' then book(turn, cjson.decode(A.metered)) end
-- What was metered, on this host or another, counts more than what the agent says.
if redis.call('HEXISTS', turn.key, 'metered') == 0 then
  redis.call('HSET', turn.key, 'usage', A.usage)
end

redis.call('HDEL', K.conversation, 'turn')
redis.call('HINCRBY', K.conversation, 'turns', 1)
redis.call('HSET', K.conversation, 'last_active', int(now_ms()), 'idle_timeout', A.idle_timeout_ms)
remember()
local held = redis.call('HMGET', K.conversation, 'state', 'retention', 'lane')
if held[2] then
  keep_for(A.conversation, turn.tenant, held[2])
  list_conversation(A.conversation, turn.tenant, held[3], now_ms(), held[2])
end
if held[1] == 'busy' then step_conversation(K.conversation, 'busy', 'warm') end
return {'ok', 'is_next_waiting', settle(A.conversation)}
