-- claim: the conversation's unfinished turn, else the head of its FIFO.
--
-- KEYS  conversation, todo, turns_open, idle
-- ARGS  conversation, worker, fence, attempts_max, look_after_ms (delay of the sweep's next look),
--       out_of_attempts (end event of a turn that is), out_of_attempts_code,
--       cancelled (end event of a turn that is), events_max, ended_ttl_ms
-- Returns 'lost' | 'none' | 'claimed' turn, is_adoption, host (of the container, or ''),
--       record (the turn's hash), request, sdk_session, is_resending, transcript_full, options,
--       known (accepted prompts, as the turn was begun), newest (of them),
--       age_ms (since the turn was first claimed)
--
-- The attempt is counted before the start. A turn whose log has begun is only ever adopted: its
-- tools may have had effects; `adoptions` counts the owners that took it since it last got on, or
-- was last handed over by one that lived. So is one that submit began for an owner that is gone: its
-- agent may have it. Called again after a lost answer, or when the message of a begun turn was lost,
-- it gives the same turn again.
local conversation, fence = A.conversation, A.fence
if not is_owner(K.conversation, A.worker, fence) then return {'lost'} end
write_even_when_full()
local tenant = redis.call('HGET', K.conversation, 'tenant')
if tenant then leave_room(conversation, tenant) end

local function finish_unrun(turn, state, payload, reason)
  local n = end_turn(turn, state, turn.seq + 1, payload, reason, A.events_max, A.ended_ttl_ms)
  announce(turn, fence, n, payload)
end

local function claimed(turn, is_adoption)
  local request = redis.call('GET', key('turn_request', turn.id))
  if not request then
    finish_unrun(turn, 'failed', A.out_of_attempts, A.out_of_attempts_code)
    redis.call('HDEL', K.conversation, 'turn')
    return nil
  end
  redis.call('HSET', turn.key, 'fence', fence)
  redis.call('HDEL', turn.key, 'unowned')
  redis.call('ZADD', K.turns_open, int(now_ms() + tonumber(A.look_after_ms)), turn.id)
  local held = redis.call('HMGET', K.conversation, 'host', 'sdk_session', 'resends', 'transcript_full',
    'options')
  local was = redis.call('HMGET', turn.key, 'claimed', 'known')
  local since = tonumber(was[1]) or now_ms()
  local accepted = key('accepted', conversation)
  local known = tonumber(was[2]) or redis.call('LLEN', accepted)
  return {'claimed',
    'turn', turn.id,
    'is_adoption', is_adoption,
    'record', redis.call('HGETALL', turn.key),
    'request', request,
    'age_ms', int(math.max(now_ms() - since, 0)),
    'host', held[1] or '',
    'sdk_session', held[2] or '',
    'is_resending', held[3] or '',
    'transcript_full', held[4] or '',
    'options', held[5] or '',
    'known', int(known),
    'newest', known > 0 and redis.call('LINDEX', accepted, int(known - 1)) or '',
  }
end

local function begin(turn)
  step_turn(turn, 'claimed')
  redis.call('HSET', turn.key, 'attempt', turn.attempt + 1, 'claimed', int(now_ms()))
  redis.call('HSET', K.conversation, 'turn', turn.id)
  if redis.call('HGET', K.conversation, 'state') == 'warm' then
    step_conversation(K.conversation, 'warm', 'busy')
  end
  redis.call('HDEL', K.conversation, 'idle_at')
  redis.call('ZREM', K.idle, conversation)
  return claimed(turn, 0)
end

local unfinished = redis.call('HGET', K.conversation, 'turn')
if unfinished then
  local turn = read_turn(unfinished)
  if turn and turn.fence ~= fence and is_begun_unsaid(turn) then step_turn(turn, 'running') end
  if turn and turn.state == 'running' then
    if turn.fence ~= fence then
      local last = redis.call('HMGET', turn.key, 'adoptions', 'adopted_seq')
      local before = tonumber(last[2]) == turn.seq and tonumber(last[1]) or 0
      redis.call('HSET', turn.key, 'adoptions', before + 1, 'adopted_seq', turn.seq)
    end
    local answer = claimed(turn, 1)
    if answer then return answer end
  elseif turn and turn.state == 'claimed' then
    if turn.fence == fence then
      local answer = claimed(turn, 0)
      if answer then return answer end
    elseif turn.cancel then
      finish_unrun(turn, 'cancelled', A.cancelled, turn.cancel)
    elseif turn.attempt >= tonumber(A.attempts_max) then
      finish_unrun(turn, 'failed', A.out_of_attempts, A.out_of_attempts_code)
    else
      redis.call('HSET', turn.key, 'attempt', turn.attempt + 1)
      local answer = claimed(turn, 1)
      if answer then return answer end
    end
  end
  redis.call('HDEL', K.conversation, 'turn')
end

while true do
  local id = redis.call('LPOP', K.todo)
  if not id then break end
  local turn = read_turn(id)
  if turn and turn.state == 'queued' then
    if turn.cancel then
      finish_unrun(turn, 'cancelled', A.cancelled, turn.cancel)
    elseif turn.attempt >= tonumber(A.attempts_max) then
      step_turn(turn, 'claimed')
      finish_unrun(turn, 'failed', A.out_of_attempts, A.out_of_attempts_code)
    else
      local answer = begin(turn)
      if answer then return answer end
    end
  end
end
if redis.call('HGET', K.conversation, 'state') == 'busy' then
  step_conversation(K.conversation, 'busy', 'warm')
end
settle(conversation)
return {'none'}
