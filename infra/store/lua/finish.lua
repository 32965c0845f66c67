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
local held = redis.call('HMGET', K.conversation, 'owner', 'fence', 'turn', 'state', 'retention', 'lane',
  'kept_until', 'turns', 'sdk_session', 'caller')
if held[1] ~= A.worker or held[2] ~= A.fence then return {'lost'} end
local turn, unfinished = read_turn(A.turn), held[3]
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

-- What the conversation holds more in the end.
local list, counted = key('accepted', A.conversation), 0

-- Returns the length of the list.
local function accept(digest, answer, checkpoint, tails, past)
  local entry = {digest = digest, turn = turn.id}
  if answer and answer ~= '' then entry.answer = answer end
  if checkpoint and checkpoint ~= '' then entry.checkpoint = checkpoint end
  if tails and #tails > 0 then entry.tails = tails end
  entry.past = past
  local encoded = cjson.encode(entry)
  local length = redis.call('RPUSH', list, encoded)
  if length == 1 then
    redis.call('PEXPIRE', list, int(math.max(redis.call('PTTL', K.conversation), 1)))
  end
  counted = counted + accepted_bytes(encoded)
  return length
end

-- Leaves the first `keep` entries of the list, and those from `known` on to be put there again.
local function forget(keep, known)
  if not known or known > keep then
    for _, entry in ipairs(redis.call('LRANGE', list, int(keep), int((known or 0) - 1))) do
      counted = counted - accepted_bytes(entry)
    end
  end
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
      counted = counted - redis.call('HSTRLEN', unheard, kept.turn) - ENTRY_BYTES
      redis.call('HDEL', unheard, kept.turn)
    end
  end
end

-- They go with the turn's end.
local heads = turn.base and redis.call('GET', key('turn_heads', turn.id))
heads = heads and cjson.decode(heads) or {}

local function base_of_turn()
  if turn.base or A.base ~= '' then return cjson.decode(turn.base or A.base) end
  local known = turn.known
  -- Who ends it cannot read its request: its prompt may be in the memory all the same.
  return turn.begun and {kind = 'continue', keep = known, known = known, before = {}, digest = ''}
end

-- Puts what the agent remembers of the turn at the list's end. Returns how many entries that are, and
-- the length of the list.
local function accept_all(base)
  local session = turn.sdk_session
  if not session or not (A.memory == 'told' or turn.remembered == session) then return 1, accept('') end
  for i, digest in ipairs(base.before) do accept(digest, heads[i]) end
  local length = accept(base.digest, A.answer_heads, A.checkpoint, base.tails, base.past)
  if session ~= held[9] then replace_session(A.conversation, session) end
  return #base.before + 1, length
end

-- Messages that were stopped, in the queue, after it was decided on what the turn is to stand, come
-- behind it: those from `known` on. If it goes on from all that is known, the list's length says
-- whether there are any.
local function remember()
  local base = base_of_turn()
  if not base or A.memory == 'nothing' then return end
  local keep, known = base.keep, base.known
  if known and known > keep then hear(redis.call('LRANGE', list, int(keep), int(known - 1))) end
  if base.kind == 'continue' and known == keep then
    local count, length = accept_all(base)
    if length - count <= known then return end
    for _, entry in ipairs(redis.call('LRANGE', list, int(known), int(length - count - 1))) do
      redis.call('LREM', list, -1, entry)
      redis.call('RPUSH', list, entry)
    end
    return
  end
  local later = known and redis.call('LRANGE', list, int(known), -1) or {}
  if keep > 0 or known or base.kind ~= 'continue' then forget(keep, known) end
  accept_all(base)
  for _, entry in ipairs(later) do redis.call('RPUSH', list, entry) end
end

-- The first write cannot grow, so a full Redis lets the others through (see write_even_when_full).
redis.call('HDEL', K.conversation, 'turn')
if through then step_turn(turn, 'running') end
local reason = A.reason
if reason == '' and new == 'cancelled' then reason = turn.cancel or '' end
if new == 'cancelled' and A.memory == 'nothing' and turn.state == 'running' then keep_unheard(turn) end
remember()
end_turn(turn, new, tonumber(A.n), A.end_event, reason, A.events_max, A.ended_ttl_ms, A.usage, counted)
-- What was metered, on this host or another, counts more than what the agent says.
if A.metered ~= '' then book(turn, cjson.decode(A.metered)) end

local now = int(now_ms())
local is_next_waiting = math.min(redis.call('LLEN', key('todo', A.conversation)), 1)
local idle_at = is_next_waiting == 0 and idle_from_now(A.conversation, held[4], A.idle_timeout_ms)
local fields = {'turns', int((tonumber(held[8]) or 0) + 1), 'last_active', now, 'idle_timeout', A.idle_timeout_ms}
if idle_at then fields[7], fields[8] = 'idle_at', idle_at end
if held[4] == 'busy' then
  step_conversation(K.conversation, 'busy', 'warm', fields)
else
  redis.call('HSET', K.conversation, unpack(fields))
end
if held[5] then
  local _, is_renewed = keep_for(A.conversation, turn.tenant, held[5], held[7])
  if not held[10] then
    list_conversation(A.conversation, turn.tenant, held[6], now, held[5], is_renewed)
  end
end
return {'ok', 'is_next_waiting', is_next_waiting}
