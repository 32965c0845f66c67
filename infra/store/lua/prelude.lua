-- Put in front of every script, after the generated tables KEY, TURN_NEXT and CONVERSATION_NEXT
-- (infra/store/server/scripts.py): what the scripts share. Returns nothing by itself.
--
-- KEY            patterns of the keys a script finds only while it runs ("%s" is an id)
-- TURN_NEXT      TURN_NEXT[old][new] is true for a legal step of a turn (infra/wire/states.py)
-- CONVERSATION_NEXT  the same for conversations
--
-- Numbers above 2^53 never occur; int() is needed all the same, as Lua prints 1.7e+15 otherwise.

-- How long lists of what waits are kept; nothing waits nearly as long.
local WAITING_LIFE_MS = 86400000

local function key(kind, id, second)
  return string.format(KEY[kind], id, second)
end

local function int(number)
  return string.format('%.0f', number)
end

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

-- With `noeviction` and a full Redis the first write decides: one that may grow is refused, but
-- after one that cannot grow all others of the script go through. Scripts that give memory back or
-- keep ownership alive call this first; submit and append do not, so they are refused whole.
local function write_even_when_full()
  redis.call('DEL', KEY.nothing)
end

local function is_owner(conversation_key, worker, fence)
  local held = redis.call('HMGET', conversation_key, 'owner', 'fence')
  return held[1] == worker and held[2] == fence
end

-- The living owner of a conversation: '' when its lease has lapsed.
local function living_owner(conversation)
  return redis.call('GET', key('lease', conversation)) or ''
end

local function is_ended(state)
  return next(TURN_NEXT[state]) == nil
end

-- What a tenant holds: bytes by record (a turn, a conversation, a day's chains) until each expires.
-- The figures are what such a record takes at the most, measured; contents are added as they come.

local TURN_BYTES = 6000
local CONVERSATION_BYTES = 1500
local ACCEPTED_BYTES = 300
local CHAIN_BYTES = 350
local ENTRY_BYTES = 100
local EVENT_BYTES = 16
local HELD_SWEPT_MAX = 500
local UNHEARD_BYTES_MAX = 4194304

-- Adds to a record; until_ms says (again) when it expires. One that is unknown, or forgotten
-- meanwhile, is only begun with until_ms, and never falls below nothing.
local function hold(tenant, record, bytes, until_ms)
  local held = key('tenant_held', tenant)
  local had = redis.call('HGET', held, record)
  if not had and not until_ms then return end
  bytes = math.max(bytes, -(tonumber(had) or 0))
  if bytes ~= 0 then
    redis.call('HINCRBY', held, record, int(bytes))
    redis.call('HINCRBY', held, 'total', int(bytes))
  elseif not had then
    redis.call('HSET', held, record, '0')
  end
  if not until_ms then return end
  redis.call('ZADD', key('tenant_held_until', tenant), int(until_ms), record)
  local life = int(math.max(redis.call('PTTL', held), until_ms - now_ms()))
  redis.call('PEXPIRE', held, life)
  redis.call('PEXPIRE', key('tenant_held_until', tenant), life)
end

local function hold_no_more(tenant, record)
  local held = key('tenant_held', tenant)
  local bytes = tonumber(redis.call('HGET', held, record))
  if not bytes then return end
  redis.call('ZREM', key('tenant_held_until', tenant), record)
  redis.call('HDEL', held, record)
  if bytes ~= 0 then redis.call('HINCRBY', held, 'total', int(-bytes)) end
  if redis.call('HLEN', held) == 1 then redis.call('DEL', held) end
end

-- What an entry of a list of accepted prompts counts, when it comes and when it goes.
local function accepted_bytes(encoded)
  return math.max(ACCEPTED_BYTES, #encoded + ENTRY_BYTES)
end

-- The records that have expired, some hundreds at once.
local function expired_holds(tenant, now)
  return redis.call('ZRANGEBYSCORE', key('tenant_held_until', tenant), '-inf', int(now),
    'LIMIT', 0, HELD_SWEPT_MAX)
end

local function sweep_holds(tenant, now)
  for _, record in ipairs(expired_holds(tenant, now)) do hold_no_more(tenant, record) end
end

-- The bytes that a tenant holds. Only reads.
local function held_by(tenant, now)
  local held = key('tenant_held', tenant)
  local total = tonumber(redis.call('HGET', held, 'total')) or 0
  local expired = expired_holds(tenant, now)
  if #expired > 0 then
    for _, bytes in ipairs(redis.call('HMGET', held, unpack(expired))) do
      total = total - (tonumber(bytes) or 0)
    end
  end
  return total
end

-- The turn's hash as a table; nil when Redis does not know the turn (any more).
local function read_turn(id)
  local held = redis.call('HMGET', key('turn', id),
    'state', 'conv', 'tenant', 'replica', 'seq', 'attempt', 'cancel', 'fence', 'created')
  if not held[1] then return nil end
  return {
    id = id, key = key('turn', id), state = held[1], conversation = held[2], tenant = held[3],
    replica = held[4], seq = tonumber(held[5]) or 0, attempt = tonumber(held[6]) or 0,
    cancel = held[7], fence = held[8], created = tonumber(held[9]) or 0,
  }
end

local function step_turn(turn, new)
  assert(TURN_NEXT[turn.state][new], 'turn: ' .. turn.state .. ' -> ' .. new .. ' is not a step')
  redis.call('HSET', turn.key, 'state', new)
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

local function step_conversation(conversation_key, old, new)
  assert(CONVERSATION_NEXT[old][new], 'conversation: ' .. old .. ' -> ' .. new .. ' is not a step')
  redis.call('HSET', conversation_key, 'state', new)
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
  redis.call('XADD', events, 'MAXLEN', '~', events_max, int(n) .. '-0', 'e', payload)
  return n
end

-- The key by which a repeat finds this turn; nil when there is none, or it leads to a later one.
local function idempotency_of(turn)
  local digest = redis.call('HGET', turn.key, 'idem')
  if not digest or digest == '' then return nil end
  local name = key('idempotency', turn.tenant, digest)
  return redis.call('GET', name) == turn.id and name or nil
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

-- Ends a turn: its last event, its state, a short remaining life. What only a turn needs that goes on
-- is no longer kept and no longer counts: sealed key, request, heads, and the base, which may name
-- thousands of prompts.
-- Returns the number of the end event.
local function end_turn(turn, new, n, payload, reason, events_max, ended_ttl_ms)
  n = log_end(turn, n, payload, events_max)
  if new == 'cancelled' and turn.state ~= 'running' then keep_unheard(turn) end
  step_turn(turn, new)
  redis.call('HSET', turn.key, 'seq', int(n), 'ended', int(now_ms()))
  if reason ~= '' then redis.call('HSET', turn.key, 'reason', reason) end
  local request, heads = key('turn_request', turn.id), key('turn_heads', turn.id)
  local let_go = redis.call('STRLEN', request) + redis.call('STRLEN', heads)
    + redis.call('HSTRLEN', turn.key, 'base')
  hold(turn.tenant, turn.id, #payload - let_go, now_ms() + ended_ttl_ms)
  redis.call('UNLINK', request, heads)
  redis.call('HDEL', turn.key, 'key_sealed', 'base')
  for _, kind in ipairs({'turn', 'turn_events'}) do
    redis.call('PEXPIRE', key(kind, turn.id), ended_ttl_ms)
  end
  local idempotency = idempotency_of(turn)
  if idempotency then redis.call('PEXPIRE', idempotency, ended_ttl_ms) end
  redis.call('DEL', key('turn_readers', turn.id))
  redis.call('ZREM', KEY.turns_open, turn.id)
  redis.call('ZREM', key('tenant_running', turn.tenant), turn.id)
  return n
end

-- Tells the API replica that asked: one frame, as the worker would publish it.
local function announce(turn, fence, n, payload)
  redis.call('PUBLISH', key('replica_channel', turn.replica),
    turn.id .. ' ' .. fence .. ' ' .. int(n) .. ' ' .. payload)
end

-- Sets a conversation's idle deadline when it may hold a container and nothing runs or waits; one
-- that is set stays.
-- Returns 1 when something still waits in its FIFO, else 0.
local function settle(conversation)
  local conversation_key = key('conversation', conversation)
  if redis.call('LLEN', key('todo', conversation)) > 0 then return 1 end
  local held = redis.call('HMGET', conversation_key, 'turn', 'state', 'idle_timeout')
  if held[2] and not held[1] and held[2] ~= 'cold' and held[2] ~= 'lost' then
    local deadline = int(now_ms() + (tonumber(held[3]) or 0))
    if redis.call('ZADD', KEY.idle, 'NX', deadline, conversation) == 1 then
      redis.call('HSET', conversation_key, 'idle_at', deadline)
    end
  end
  return 0
end

-- The waiting room: conversations with turns that wait for a worker. Not those with a living owner,
-- who is told of each turn; nor those with an unfinished turn, which goes first and is for a worker of
-- its host; nor side turns, which need no container, or those of a lane that only later versions know.

local function waiting_for_worker(conversation)
  local held = redis.call('HMGET', key('conversation', conversation), 'turn', 'lane')
  local found = {}
  if (held[2] or 'agent') ~= 'agent' or living_owner(conversation) ~= '' then return found end
  local unfinished = held[1] and read_turn(held[1])
  if unfinished and not is_ended(unfinished.state) then return found end
  for _, id in ipairs(redis.call('LRANGE', key('todo', conversation), 0, -1)) do
    local turn = read_turn(id)
    if turn and turn.state == 'queued' then found[#found + 1] = turn end
  end
  return found
end

-- A place in the ring behind all others: now, but later than the last one's.
local function last_place()
  local last = redis.call('ZREVRANGE', KEY.ring, 0, 0, 'WITHSCORES')
  return int(math.max(now_ms(), (tonumber(last[2]) or 0) + 1))
end

local function leave_room(conversation, tenant)
  local room = key('room', tenant)
  if redis.call('ZREM', room, conversation) == 0 then return end
  if redis.call('EXISTS', room) == 0 then redis.call('ZREM', KEY.ring, tenant) end
  for _, id in ipairs(redis.call('LRANGE', key('todo', conversation), 0, -1)) do
    redis.call('ZREM', KEY.turns_waiting, id)
  end
end

-- Has a conversation in the room if it belongs there, since its first turn was asked for, else out
-- of it. A tenant that comes into the ring is last. Returns the turn that is to be placed, or nil.
local function enter_room(conversation, tenant)
  local turns = waiting_for_worker(conversation)
  if #turns == 0 then
    leave_room(conversation, tenant)
    return nil
  end
  local room = key('room', tenant)
  redis.call('ZADD', room, int(turns[1].created), conversation)
  if not redis.call('ZSCORE', KEY.ring, tenant) then
    redis.call('ZADD', KEY.ring, last_place(), tenant)
  end
  for _, turn in ipairs(turns) do
    redis.call('ZADD', KEY.turns_waiting, int(turn.created), turn.id)
  end
  for _, name in ipairs({room, KEY.ring, KEY.turns_waiting}) do
    redis.call('PEXPIRE', name, WAITING_LIFE_MS)
  end
  return turns[1]
end

-- After a turn has left its FIFO: what is left may wait for a shorter time, or be nothing.
local function review_room(conversation, tenant)
  if redis.call('ZSCORE', key('room', tenant), conversation) then enter_room(conversation, tenant) end
end

-- Whether a turn was begun and its conversation does not know of it (any more): the record is gone,
-- with Redis' data or by hand. A claim would never find it, so nobody can go on with it.
local function is_adrift(turn)
  return turn.state ~= 'queued' and redis.call('HGET', key('conversation', turn.conversation), 'turn') ~= turn.id
end

-- Asks for the end of a turn that has not ended: a queued one ends at once, as does one that is
-- adrift; of another one the flag is set and its owner told, by the control message `order`.
local function cancel_turn(turn, reason, payload, order, events_max, ended_ttl_ms)
  write_even_when_full()
  if is_adrift(turn) then
    local n = end_turn(turn, 'cancelled', turn.seq + 1, payload, reason, events_max, ended_ttl_ms)
    announce(turn, '0', n, payload)
    return
  end
  if turn.state == 'queued' then
    redis.call('LREM', key('todo', turn.conversation), 0, turn.id)
    local n = end_turn(turn, 'cancelled', turn.seq + 1, payload, reason, events_max, ended_ttl_ms)
    announce(turn, '0', n, payload)
    review_room(turn.conversation, turn.tenant)
    settle(turn.conversation)
    return
  end
  redis.call('HSETNX', turn.key, 'cancel', reason)
  local owner = living_owner(turn.conversation)
  if owner ~= '' then redis.call('PUBLISH', key('control_channel', owner), order) end
end

-- The starts under way on a host: conversations given to it a moment ago, and those whose agent
-- starts. One that has begun counts as long as its owner lives.

-- How long a start counts that was given and has not begun.
local START_GIVEN_MS = 5000

local function starts_under_way(host)
  local starts, now = key('host_starts', host), now_ms()
  redis.call('ZREMRANGEBYSCORE', starts, '-inf', int(now))
  local held, count = redis.call('ZRANGE', starts, 0, -1, 'WITHSCORES'), 0
  for i = 1, #held, 2 do
    if tonumber(held[i + 1]) - now <= START_GIVEN_MS or living_owner(held[i]) ~= '' then
      count = count + 1
    else
      redis.call('ZREM', starts, held[i])
    end
  end
  return count
end

local function add_start(host, conversation, life_ms)
  local starts = key('host_starts', host)
  redis.call('ZADD', starts, int(now_ms() + life_ms), conversation)
  redis.call('PEXPIRE', starts, WAITING_LIFE_MS)
end

-- Ends every turn that waits in a conversation as cancelled.
local function cancel_waiting(conversation, payload, reason, events_max, ended_ttl_ms)
  for _, id in ipairs(redis.call('LRANGE', key('todo', conversation), 0, -1)) do
    local turn = read_turn(id)
    if turn and turn.state == 'queued' then
      local n = end_turn(turn, 'cancelled', turn.seq + 1, payload, reason, events_max, ended_ttl_ms)
      announce(turn, '0', n, payload)
    end
  end
  local tenant = redis.call('HGET', key('conversation', conversation), 'tenant')
  if tenant then leave_room(conversation, tenant) end
  redis.call('DEL', key('todo', conversation))
end

-- What is kept of a conversation beside its hash and FIFO: it lives and goes with the hash.
local function belongings(conversation)
  local transcripts = key('transcripts', conversation)
  local names = {key('accepted', conversation), key('conversation_turns', conversation),
    key('conversation_usage', conversation), key('unheard', conversation), transcripts}
  for _, session in ipairs(redis.call('HKEYS', transcripts)) do
    names[#names + 1] = key('transcript', conversation, session)
    names[#names + 1] = key('transcript_seen', conversation, session)
  end
  return names
end

local function keep_for(conversation, tenant, retention_ms)
  local is_new = redis.call('HEXISTS', key('tenant_held', tenant), conversation) == 0
  hold(tenant, conversation, is_new and CONVERSATION_BYTES or 0, now_ms() + retention_ms)
  redis.call('PEXPIRE', key('conversation', conversation), retention_ms)
  for _, name in ipairs(belongings(conversation)) do redis.call('PEXPIRE', name, retention_ms) end
end

-- How many turns are looked at when one comes: more than come, so that the list gets shorter.
local UNLISTED_MAX = 20

-- The list of a conversation's turns names all that are on record, for a delete finds them by it;
-- beyond a number it forgets those that are not any more.
local function list_no_expired(conversation, most)
  local list = key('conversation_turns', conversation)
  for _ = 1, math.min(redis.call('LLEN', list) - most, UNLISTED_MAX) do
    if redis.call('EXISTS', key('turn', redis.call('LINDEX', list, 0))) == 1 then return end
    redis.call('LPOP', list)
  end
end

-- Lists a conversation under its tenant as used now; a side turn's never.
local function list_conversation(conversation, tenant, lane, now, retention_ms)
  if lane == 'side' then return end
  local index = key('tenant_conversations', tenant)
  redis.call('ZADD', index, int(now), conversation)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', int(now - tonumber(retention_ms)))
  redis.call('PEXPIRE', index, retention_ms)
end

local function drop_transcript(conversation, session)
  local tenant = redis.call('HGET', key('conversation', conversation), 'tenant')
  if tenant then
    local size = tonumber(redis.call('HGET', key('transcripts', conversation), session)) or 0
    local entries = redis.call('LLEN', key('transcript', conversation, session))
    hold(tenant, conversation, -(size + entries * ENTRY_BYTES))
  end
  redis.call('UNLINK', key('transcript', conversation, session),
    key('transcript_seen', conversation, session))
  redis.call('HDEL', key('transcripts', conversation), session)
end

-- Makes a session the conversation's own. The one before is kept until this one has entries.
local function replace_session(conversation, session)
  if session == '' then return end
  local conversation_key = key('conversation', conversation)
  redis.call('HSET', conversation_key, 'sdk_session', session)
  if redis.call('HGET', conversation_key, 'transcript_full') ~= session then
    redis.call('HDEL', conversation_key, 'transcript_full')
  end
  local transcripts = key('transcripts', conversation)
  if redis.call('HEXISTS', transcripts, session) == 0 then return end
  for _, other in ipairs(redis.call('HKEYS', transcripts)) do
    if other ~= session then drop_transcript(conversation, other) end
  end
end

-- Notes from a turn's first event that the agent took it in, and under which session.
local function note_started(turn_key, payload)
  if string.sub(payload, 1, 17) ~= '{"type":"started"' then return end
  local is_read, event = pcall(cjson.decode, payload)
  local session = is_read and event.sdk_session
  if type(session) ~= 'string' or #session > 64 or not string.match(session, '^[%w-]*$') then
    session = ''
  end
  redis.call('HSET', turn_key, 'sdk_session', session)
end

-- What turns use, as their gateways metered it.

local USAGE_DAY_LIFE_MS = 62 * 86400000
local USAGE_LIFE_MS = 400 * 86400000
local USAGE_FIGURES = {'calls', 'input_tokens', 'output_tokens', 'cache_creation_input_tokens',
  'cache_read_input_tokens', 'thinking_tokens'}
-- The part of them that counts against a budget.
local IS_SPENT = {input_tokens = true, output_tokens = true, cache_creation_input_tokens = true}

-- The day of a time in UTC, as `20260131` (the civil calendar from days, by H. Hinnant's algorithm).
local function day_of(ms)
  local days = math.floor(ms / 86400000) + 719468
  local era = math.floor(days / 146097)
  local of_era = days - era * 146097
  local year_of_era = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year_of_era + math.floor(year_of_era / 4)
    - math.floor(year_of_era / 100))
  local shifted = math.floor((5 * of_year + 2) / 153)
  local day = of_year - math.floor((153 * shifted + 2) / 5) + 1
  local month = shifted < 10 and shifted + 3 or shifted - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d%02d%02d', year, month, day)
end

local function ms_to_midnight(ms)
  return 86400000 - ms % 86400000
end

local function spent_on(tenant, ms)
  return tonumber(redis.call('HGET', key('tenant_usage_of', tenant, day_of(ms)), 'spent_tokens')) or 0
end

-- Adds to the sums what a report has more than was booked of this turn before: a report holds all
-- that one start of a gateway metered of it, so one that comes twice, late or from another worker
-- changes nothing. `report`: {instance, {model = {figures}}}; one from before a figure was counted
-- ends before it. Returns the turn's spent tokens.
local function book(turn, report)
  local lane = redis.call('HGET', turn.key, 'lane')
  local conversation = key('conversation', turn.conversation)
  local sums = {key('tenant_usage', turn.tenant),
    key('tenant_usage_of', turn.tenant, day_of(now_ms()))}
  if lane ~= 'side' then sums[3] = key('conversation_usage', turn.conversation) end
  local held = redis.call('HGET', turn.key, 'metered')
  local booked = held and cjson.decode(held) or {}
  local before = booked[report[1]] or {}
  local is_more = false
  for model, told in pairs(report[2]) do
    local had = before[model] or {}
    for i, name in ipairs(USAGE_FIGURES) do
      had[i] = had[i] or 0
      local more = (told[i] or 0) - had[i]
      if more > 0 then
        is_more, had[i] = true, told[i]
        for _, sum in ipairs(sums) do
          redis.call('HINCRBY', sum, name, int(more))
          redis.call('HINCRBY', sum, model .. ':' .. name, int(more))
          if IS_SPENT[name] then redis.call('HINCRBY', sum, 'spent_tokens', int(more)) end
        end
      end
    end
    before[model] = had
  end
  booked[report[1]] = before
  local total, spent = {}, 0
  for _, models in pairs(booked) do
    for _, figures in pairs(models) do
      for i, name in ipairs(USAGE_FIGURES) do
        local figure = figures[i] or 0
        total[i] = (total[i] or 0) + figure
        if IS_SPENT[name] then spent = spent + figure end
      end
    end
  end
  if is_more then
    redis.call('PEXPIRE', sums[1], USAGE_LIFE_MS)
    redis.call('PEXPIRE', sums[2], USAGE_DAY_LIFE_MS)
    local left = redis.call('PTTL', conversation)
    if sums[3] and left > 0 then redis.call('PEXPIRE', sums[3], left) end
    local usage = {}
    for i, name in ipairs(USAGE_FIGURES) do
      if name ~= 'calls' then usage[#usage + 1] = string.format('"%s":%s', name, int(total[i])) end
    end
    redis.call('HSET', turn.key, 'metered', cjson.encode(booked),
      'usage', '{' .. table.concat(usage, ',') .. '}')
  end
  return spent
end
