-- claim: the conversation's unfinished turn, else the head of its FIFO.
--
-- KEYS  1 conversation  2 todo  3 turns_open  4 idle
-- ARGV  1 conversation  2 worker  3 fence  4 most attempts  5 delay of the next look (ms)
--       6 end event of a turn out of attempts  7 its code  8 end event of a cancelled turn
--       9 most events of a log  10 an ended turn's life (ms)
-- Returns {'lost'}, {'none'} or {'claimed', turn, is adoption 0 | 1, container's host or '',
--       the turn's hash, the request JSON, SDK session or '', resends 1 or '', transcript_full or '',
--       the accepted prompts, egress profile or '',
--       turn and request JSON, in turn, of the messages that the agent has not heard,
--       ms since the turn was first claimed}.
--
-- The attempt is counted before the start. A turn whose log has begun is only ever adopted: its
-- tools may have had effects; `adoptions` counts the owners that took it since it last got on, or
-- was last handed over by one that lived. Called again after a lost answer it gives the same turn
-- again.
local conversation, worker, fence = ARGV[1], ARGV[2], ARGV[3]
if not is_owner(KEYS[1], worker, fence) then return {'lost'} end
write_even_when_full()
local tenant = redis.call('HGET', KEYS[1], 'tenant')
if tenant then leave_room(conversation, tenant) end

local function finish_unrun(turn, state, payload, reason)
  local n = end_turn(turn, state, turn.seq + 1, payload, reason, ARGV[9], ARGV[10])
  announce(turn, fence, n, payload)
end

local function claimed(turn, is_adoption)
  local request = redis.call('GET', key('turn_request', turn.id))
  if not request then
    finish_unrun(turn, 'failed', ARGV[6], ARGV[7])
    redis.call('HDEL', KEYS[1], 'turn')
    return nil
  end
  redis.call('HSET', turn.key, 'fence', fence)
  redis.call('HDEL', turn.key, 'unowned')
  redis.call('ZADD', KEYS[3], int(now_ms() + tonumber(ARGV[5])), turn.id)
  local held = redis.call('HMGET', KEYS[1], 'host', 'sdk_session', 'resends', 'transcript_full',
    'profile')
  return {'claimed', turn.id, is_adoption, held[1] or '', redis.call('HGETALL', turn.key), request,
    held[2] or '', held[3] or '', held[4] or '',
    redis.call('LRANGE', key('accepted', conversation), 0, -1), held[5] or '',
    redis.call('HGETALL', key('unheard', conversation)),
    int(math.max(now_ms() - (tonumber(redis.call('HGET', turn.key, 'claimed')) or now_ms()), 0))}
end

local function begin(turn)
  step_turn(turn, 'claimed')
  redis.call('HSET', turn.key, 'attempt', turn.attempt + 1, 'claimed', int(now_ms()))
  redis.call('HSET', KEYS[1], 'turn', turn.id)
  if redis.call('HGET', KEYS[1], 'state') == 'warm' then
    step_conversation(KEYS[1], 'warm', 'busy')
  end
  redis.call('HDEL', KEYS[1], 'idle_at')
  redis.call('ZREM', KEYS[4], conversation)
  return claimed(turn, 0)
end

local unfinished = redis.call('HGET', KEYS[1], 'turn')
if unfinished then
  local turn = read_turn(unfinished)
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
      finish_unrun(turn, 'cancelled', ARGV[8], turn.cancel)
    elseif turn.attempt >= tonumber(ARGV[4]) then
      finish_unrun(turn, 'failed', ARGV[6], ARGV[7])
    else
      redis.call('HSET', turn.key, 'attempt', turn.attempt + 1)
      local answer = claimed(turn, 1)
      if answer then return answer end
    end
  end
  redis.call('HDEL', KEYS[1], 'turn')
end

while true do
  local id = redis.call('LPOP', KEYS[2])
  if not id then break end
  local turn = read_turn(id)
  if turn and turn.state == 'queued' then
    if turn.cancel then
      finish_unrun(turn, 'cancelled', ARGV[8], turn.cancel)
    elseif turn.attempt >= tonumber(ARGV[4]) then
      step_turn(turn, 'claimed')
      finish_unrun(turn, 'failed', ARGV[6], ARGV[7])
    else
      local answer = begin(turn)
      if answer then return answer end
    end
  end
end
if redis.call('HGET', KEYS[1], 'state') == 'busy' then
  step_conversation(KEYS[1], 'busy', 'warm')
end
settle(conversation)
return {'none'}
