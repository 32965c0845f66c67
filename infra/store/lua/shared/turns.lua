-- A turn's record, its steps and its end.

-- The longest request that travels with a control message, and the longest such message.
local BEGUN_BYTES_MAX = 24576
local ORDER_BYTES_MAX = 61440

-- The turn's hash as a table; nil if there is no record of the turn.
local function read_turn(id)
  local held = redis.call('HMGET', key('turn', id),
    'state', 'conv', 'tenant', 'replica', 'seq', 'attempt', 'cancel', 'fence', 'created', 'base', 'idem',
    'metered', 'begun', 'known', 'sdk_session', 'remembered', 'request_bytes', 'said', 'called')
  if not held[1] then return nil end
  return {
    id = id, key = key('turn', id), state = held[1], conversation = held[2], tenant = held[3],
    replica = held[4], seq = tonumber(held[5]) or 0, attempt = tonumber(held[6]) or 0,
    cancel = held[7], fence = held[8], created = tonumber(held[9]) or 0, base = held[10], idem = held[11],
    metered = held[12], begun = held[13], known = tonumber(held[14]), sdk_session = held[15],
    remembered = held[16], request_bytes = tonumber(held[17]), said = tonumber(held[18]) or 0,
    called = held[19],
  }
end

-- Moves a turn to a state, and writes these fields (names and values) with it.
local function step_turn(turn, new, fields)
  assert(TURN_NEXT[turn.state][new], 'turn: ' .. turn.state .. ' -> ' .. new .. ' is not a step')
  redis.call('HSET', turn.key, 'state', new, unpack(fields or {}))
  if turn.state == 'queued' then
    redis.call('ZREM', KEY.turns_waiting, turn.id)
    redis.call('ZREM', key('tenant_waiting', turn.tenant), turn.id)
  elseif new == 'queued' then
    local waiting = key('tenant_waiting', turn.tenant)
    redis.call('ZADD', waiting, int(turn.created), turn.id)
    redis.call('PEXPIRE', waiting, WAITING_LIFE_MS)
  end
  turn.state = new
end

-- A turn that no agent got goes back to the head of its FIFO.
local function wait_again(turn, attempt)
  step_turn(turn, 'queued')
  redis.call('HSET', turn.key, 'attempt', int(attempt))
  redis.call('HDEL', turn.key, 'begun', 'known')
  redis.call('HDEL', key('conversation', turn.conversation), 'turn')
  redis.call('LPUSH', key('todo', turn.conversation), turn.id)
  redis.call('PEXPIRE', key('todo', turn.conversation), WAITING_LIFE_MS)
end

-- Whether its owner may have handed it to the agent without a word since submit began it.
local function is_begun_unsaid(turn)
  return turn.state == 'claimed' and turn.begun
end

local function step_conversation(conversation_key, old, new, fields)
  assert(CONVERSATION_NEXT[old][new], 'conversation: ' .. old .. ' -> ' .. new .. ' is not a step')
  redis.call('HSET', conversation_key, 'state', new, unpack(fields or {}))
end

-- Logs the end event at number n, or behind what is there, unless an end is there already.
-- Returns the number of the end event.
local function log_end(turn, n, payload, events_max)
  local events = key('turn_events', turn.id)
  if n <= turn.seq then
    local newest = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)
    if newest[1] and string.sub(newest[1][2][2], 1, 13) == '{"type":"end"' then return turn.seq end
    n = turn.seq + 1
  end
  redis.call('XADD', events, 'MINID', '~', int(math.max(0, n - tonumber(events_max))) .. '-0',
    int(n) .. '-0', 'e', payload)
  return n
end

-- The key by which a repeat finds this turn; nil when there is none, or it leads to a later one.
local function idempotency_of(turn)
  if not turn.idem or turn.idem == '' then return nil end
  local name = key('idempotency', turn.tenant, turn.idem)
  return redis.call('GET', name) == turn.id and name or nil
end

-- A repeat finds the turn for as long as its record lives. A key that leads to a later turn lives as
-- long as that one's.
local function shorten_idempotency(turn, life_ms)
  if not turn.idem or turn.idem == '' then return end
  local name = key('idempotency', turn.tenant, turn.idem)
  local found = redis.call('GETEX', name, 'PX', life_ms)
  if not found or found == turn.id then return end
  redis.call('PEXPIRE', name, redis.call('PTTL', key('turn', found)))
end

-- Keeps a message that was stopped before its agent had it, of a client that will not send it again:
-- it goes with the next one. Called while the request is there; longer ones are let go.
local function keep_unheard(turn)
  local conversation, request = key('conversation', turn.conversation), key('turn_request', turn.id)
  if redis.call('HGET', turn.key, 'thin') ~= '1' then return end
  if redis.call('HGET', conversation, 'resends') then return end
  local size, left = redis.call('STRLEN', request), redis.call('PTTL', conversation)
  if size == 0 or size > UNHEARD_BYTES_MAX or left <= 0 then return end
  local unheard, accepted = key('unheard', turn.conversation), key('accepted', turn.conversation)
  redis.call('HSET', unheard, turn.id, redis.call('GET', request))
  local entry = cjson.encode({digest = '', turn = turn.id, unheard = true})
  redis.call('RPUSH', accepted, entry)
  redis.call('PEXPIRE', unheard, left)
  redis.call('PEXPIRE', accepted, left)
  hold(turn.tenant, turn.conversation, size + ENTRY_BYTES + accepted_bytes(entry))
end

-- Turns that its agent has called end with it: each is asked to, no matter who ends this one. One that waits
-- ends when it is claimed.
local function cancel_called(turn)
  for id in string.gmatch(turn.called or '', 'turn_%x+') do
    local held = redis.call('HMGET', key('turn', id), 'state', 'conv')
    if held[1] and not is_ended(held[1]) then
      local reason = 'its caller has ended'
      redis.call('HSETNX', key('turn', id), 'cancel', reason)
      local owner = living_owner(held[2])
      if owner ~= '' then
        redis.call('PUBLISH', key('control_channel', owner), cjson.encode({
          type = 'cancel_turn', turn = id, conversation = held[2], reason = reason,
        }))
      end
    end
  end
end

-- Ends a turn: its last event, its state, a short remaining life. What only a turn needs that goes on
-- is no longer kept and no longer counts: sealed key, request, heads, and the base, which may name
-- thousands of prompts. `usage`, if there is one, is kept unless something was metered; `remembered` is
-- what its conversation holds more than before, if that is known here.
-- Returns the number of the end event.
local function end_turn(turn, new, n, payload, reason, events_max, ended_ttl_ms, usage, remembered)
  n = log_end(turn, n, payload, events_max)
  if new == 'cancelled' and turn.state ~= 'running' then keep_unheard(turn) end
  local request, heads = key('turn_request', turn.id), key('turn_heads', turn.id)
  local let_go = turn.request_bytes or redis.call('STRLEN', request)
  if turn.base then let_go = let_go + #turn.base + redis.call('STRLEN', heads) end
  local fields = {'seq', int(n), 'ended', int(now_ms()), 'key_sealed', ''}
  if reason ~= '' then fields[7], fields[8] = 'reason', reason end
  if usage and not turn.metered then fields[#fields + 1], fields[#fields + 2] = 'usage', usage end
  step_turn(turn, new, fields)
  let_go = let_go + counted_log(turn.said, turn.seq) - log_bytes(turn.said, turn.seq)
  hold_more(turn.tenant, {{turn.id, #payload - let_go}, {turn.conversation, remembered or 0}})
  redis.call('ZADD', key('tenant_held_until', turn.tenant), 'XX', int(now_ms() + ended_ttl_ms), turn.id)
  redis.call('UNLINK', request, heads, key('turn_readers', turn.id))
  if turn.base then redis.call('HDEL', turn.key, 'base') end
  for _, kind in ipairs({'turn', 'turn_events'}) do
    redis.call('PEXPIRE', key(kind, turn.id), ended_ttl_ms)
  end
  shorten_idempotency(turn, ended_ttl_ms)
  redis.call('ZREM', KEY.turns_open, turn.id)
  redis.call('ZREM', key('tenant_running', turn.tenant), turn.id)
  cancel_called(turn)
  return n
end

-- Tells the API replica that asked: one frame, as the worker would publish it.
local function announce(turn, fence, n, payload)
  redis.call('PUBLISH', key('replica_channel', turn.replica),
    turn.id .. ' ' .. fence .. ' ' .. int(n) .. ' ' .. payload)
end

-- The idle deadline of a conversation without a turn, in the list of all; nil if it holds no container
-- or has one already.
local function idle_from_now(conversation, state, idle_timeout)
  if not state or state == 'cold' or state == 'lost' then return nil end
  local deadline = int(now_ms() + (tonumber(idle_timeout) or 0))
  return redis.call('ZADD', KEY.idle, 'NX', deadline, conversation) == 1 and deadline or nil
end

-- Sets a conversation's idle deadline when it may hold a container and nothing runs or waits; one
-- that is set stays.
-- Returns 1 when something still waits in its FIFO, else 0.
local function settle(conversation)
  local conversation_key = key('conversation', conversation)
  if redis.call('LLEN', key('todo', conversation)) > 0 then return 1 end
  local held = redis.call('HMGET', conversation_key, 'turn', 'state', 'idle_timeout')
  local deadline = not held[1] and idle_from_now(conversation, held[2], held[3])
  if deadline then redis.call('HSET', conversation_key, 'idle_at', deadline) end
  return 0
end
