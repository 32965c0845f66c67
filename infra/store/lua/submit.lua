-- submit: creates a turn and puts it into its conversation's FIFO, or finds the turn it repeats.
--
-- KEYS  conversation, todo, turn, turn_request, turns_open, idle, tenant_running,
--       idempotency (only when there is a digest)
-- ARGS  conversation, turn, tenant, label, request, replica, model, sealed_key, key_expires_ms,
--       on_disconnect, lane, options (those named, see keep_options),
--       digest (makes a repeat the same turn), repeats (earlier turns of the digest it may get: any,
--       or left: only one under way that nobody reads),
--       supersedes (a turn that it is known not to repeat), reader (who will read it),
--       is_thin (its client may be one that sends only what is new),
--       caller (the turn whose agent calls this one's, or ''), granted_tokens (what it may spend of
--       the caller's budget), called_at_once_max, called_max (turns that one turn's agent calls),
--       order (control message for the owner), look_after_ms (delay of the sweep's next look at a
--       turn that is begun), lease_sure_ms (that the owner's lease has left if it is renewed in time),
--       open_ttl_ms, retention_ms, todo_ttl_ms,
--       idle_timeout_ms, listed_max (turns of a conversation besides those on record),
--       turns_waiting_max (of the conversation), queue_max (that wait for a worker),
--       tenant_turns_max (open ones), tenant_queue_max (of them, that wait),
--       tenant_budget_tokens (in a day), tenant_bytes_max (this request included).
--       Of the last five, 0 means any number.
-- Returns 'created' turn, owner (living), ahead (turns), told (owners) | 'joined' turn, owner, ahead,
--       told | 'repeated' turn, owner, ahead, told | 'conversation' turns, oldest_ms |
--       'cluster' turns, oldest_ms | 'tenant' turns, oldest_ms | 'tenant_queue' turns, oldest_ms |
--       'budget' day_left_ms | 'tenant_bytes' held_bytes | 'caller_over' | 'called' turns
--
-- The words from 'conversation' on name the bound that is reached, `turns` how many there are,
-- `oldest_ms` the age of the oldest.
--
-- 'caller_over': the caller's turn has ended, or is being cancelled. 'called': it calls as many as it may.
--
-- Called again after a lost answer it finds its own turn and says 'created' again. A repeat of a
-- turn that ended before anybody claimed it is a new turn: nothing of it can have happened.
-- A repeat is never refused. If the turn is under way, the repeat becomes one of its readers in this
-- step ('joined'), so the turn goes on when the first client hangs up. If it has ended or is being
-- cancelled, the caller decides what to do ('repeated'). Without a living owner the conversation enters the waiting room.
--
-- A turn that its conversation's living owner could only claim at once is begun here, as by a claim of
-- that owner, and the control message brings what its claim would answer (see begin_warm).
local SWEPT_EVERY = 16
local conversation, turn, tenant = A.conversation, A.turn, A.tenant

local function answer(word, id, told)
  local ahead = 0
  local running = redis.call('HGET', K.conversation, 'turn')
  for place, waiting in ipairs(redis.call('LRANGE', K.todo, 0, -1)) do
    if waiting == id then ahead = (running and running ~= id and 1 or 0) + place - 1 end
  end
  return {word,
    'turn', id,
    'owner', living_owner(conversation),
    'ahead', ahead,
    'told', told or 0,
  }
end

-- Whether there is anything of what in most cases is not: this turn, a turn before it, a waiting tenant.
local is_anything_there = redis.call('EXISTS', K.turn, K.todo, KEY.ring) > 0
if is_anything_there and redis.call('EXISTS', K.turn) == 1 then return answer('created', turn) end
local held = redis.call('HMGET', K.conversation, 'state', 'turn', 'owner', 'fence', 'begun', 'host',
  'sdk_session', 'resends', 'transcript_full', 'options', 'kept_until', 'idle_at')
-- An agent's call begins nothing for a turn that is over: nobody would stop it.
local caller = A.caller ~= '' and read_turn(A.caller) or nil
if A.caller ~= '' then
  if not caller or caller.tenant ~= tenant or is_ended(caller.state) or caller.cancel then
    return {'caller_over'}
  end
  local called, under_way = 0, 0
  for id in string.gmatch(caller.called or '', 'turn_%x+') do
    called = called + 1
    local state = redis.call('HGET', key('turn', id), 'state')
    if state and not is_ended(state) then under_way = under_way + 1 end
  end
  if called >= tonumber(A.called_max) or under_way >= tonumber(A.called_at_once_max) then
    return {'called', 'turns', called}
  end
end

local function read_by(id)
  if A.reader == '' then return end
  -- Without a lifetime: it goes when the turn ends, or when the sweep misses its record (unclaimed).
  redis.call('SADD', key('turn_readers', id), A.reader)
end

local function may_repeat(found)
  if not found or found.id == A.supersedes then return false end
  if A.repeats == 'left' then
    return not is_ended(found.state) and not found.cancel
      and redis.call('EXISTS', key('turn_readers', found.id)) == 0
  end
  return not (is_ended(found.state) and found.attempt == 0)
end

if A.digest ~= '' then
  local earlier = redis.call('GET', K.idempotency)
  local found = earlier and read_turn(earlier)
  if may_repeat(found) then
    if is_ended(found.state) or found.cancel then return answer('repeated', earlier) end
    read_by(earlier)
    if A.on_disconnect == 'continue' then redis.call('HSET', found.key, 'on_disconnect', A.on_disconnect) end
    return answer('joined', earlier)
  end
end

-- Each option stays until another value is named: a JSON object of names and texts. Returns those of
-- this turn, for a later one may name others before it is claimed.
local function with_options(named)
  if named == '' then return held[10] or nil end
  local options = held[10] and cjson.decode(held[10]) or {}
  for name, value in pairs(cjson.decode(named)) do options[name] = value end
  return cjson.encode(options)
end

-- Of a warm conversation with a living owner and nothing before this turn, neither here nor among
-- those that wait for a place: what its owner's claim would say about it. Else nil.
local function warm_claim(owner, lease_left_ms)
  if owner == '' or is_anything_there or A.lane == 'side' then return nil end
  if held[1] ~= 'warm' or held[2] or held[3] ~= owner or #A.request > BEGUN_BYTES_MAX then return nil end
  -- An owner that has missed a renewal may be dead, and what is begun for it is lost with it.
  if lease_left_ms < tonumber(A.lease_sure_ms) then return nil end
  local accepted = key('accepted', conversation)
  return {
    fence = held[4],
    serial = int((tonumber(held[5]) or 0) + 1),
    known = int(redis.call('LLEN', accepted)),
    newest = redis.call('LINDEX', accepted, -1) or '',
    request = A.request,
    host = held[6] or '',
    sdk_session = held[7] or '',
    is_resending = held[8] or '',
    transcript_full = held[9] or '',
  }
end

local function flat(record)
  local fields = {}
  for name, value in pairs(record) do
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  return fields
end

-- Begins the turn for the owner. It may hand it to the agent at once and need not say so before the
-- first event, so to everybody else the turn is one that may have had effects (see claim).
local function begin_warm(owner, claim, record)
  record.state, record.attempt, record.fence = 'claimed', '1', claim.fence
  record.claimed, record.begun, record.known = record.created, claim.serial, claim.known
  claim.record = flat(record)
  local order = cjson.encode({
    type = 'turn_waits', conversation = conversation, turn = turn, begun = claim,
  })
  if #order > ORDER_BYTES_MAX then return 0 end
  return redis.call('PUBLISH', key('control_channel', owner), order)
end

-- A lease is held by the owner on record: its life tells both.
local function owner_and_lease()
  if not held[3] then return living_owner(conversation), 0 end
  local left = redis.call('PTTL', key('lease', conversation))
  return left == -2 and '' or held[3], left
end

local now = now_ms()
local owner, lease_left_ms = owner_and_lease()
-- Only reads: turns whose records have expired are left out, and removed further down.
local since = int(now - tonumber(A.open_ttl_ms))

-- What is to be answered if there are too many turns, and how many there are. `fewer`: at the most as
-- many as these, which need not be counted if that is few enough.
local function refusal(word, turns, most, fewer)
  most = tonumber(most)
  if most == 0 or (fewer and fewer < most) then return nil end
  local count = redis.call('ZCOUNT', turns, since, '+inf')
  if count < most then return nil, count end
  local oldest = redis.call('ZRANGEBYSCORE', turns, since, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return {word, 'turns', count, 'oldest_ms', int(math.max(now - tonumber(oldest[2]), 0))}
end

local waiting = is_anything_there and redis.call('LLEN', K.todo) or 0
if waiting >= tonumber(A.turns_waiting_max) then return {'conversation', 'turns', waiting} end
local tenant_waiting = key('tenant_waiting', tenant)
local refused, open = refusal('tenant', K.tenant_running, A.tenant_turns_max)
-- Those that wait are among the open ones.
refused = refused or refusal('tenant_queue', tenant_waiting, A.tenant_queue_max, open)
if not refused and A.lane ~= 'side' and owner == '' then
  refused = refusal('cluster', KEY.turns_waiting, A.queue_max)
end
if refused then return refused end
local budget = tonumber(A.tenant_budget_tokens)
if budget > 0 then
  local spent = spent_on(tenant, now)
  if spent >= budget then return {'budget', 'day_left_ms', int(ms_to_midnight(now))} end
end

local claim = warm_claim(owner, lease_left_ms)
-- A warm conversation leaves what expired to each sixteenth of its turns, unless the room is wanted.
local sweeps = not claim or tonumber(claim.serial) % SWEPT_EVERY == 0
local expired = sweeps and expired_holds(tenant, now) or {}
local bytes_max, size = tonumber(A.tenant_bytes_max), #A.request + TURN_BYTES + counted_log(0, 0)
local in_all = held_in_all(tenant)
if bytes_max > 0 and in_all + size > bytes_max then
  expired = expired_holds(tenant, now)
  local bytes = held_by(tenant, expired)
  if bytes + size > bytes_max then
    sweep_holds(tenant, expired)
    return {'tenant_bytes', 'held_bytes', int(bytes)}
  end
end

-- The first write may grow: a full Redis refuses the script here, before anything has changed.
redis.call('SET', K.turn_request, A.request, 'PX', A.open_ttl_ms)
local record = {
  conv = conversation, tenant = tenant, lane = A.lane, replica = A.replica, model = A.model,
  state = 'queued', attempt = '0', fence = '0', seq = '0', created = int(now),
  on_disconnect = A.on_disconnect, key_sealed = A.sealed_key, key_expires = A.key_expires_ms,
  idem = A.digest, thin = A.is_thin, request_bytes = int(#A.request), options = with_options(A.options),
  expires = int(now + A.open_ttl_ms),
}
if caller then
  record.caller = caller.id
  local entry = turn .. ':' .. A.granted_tokens
  redis.call('HSET', caller.key, 'called', caller.called and caller.called .. ' ' .. entry or entry)
end
local told = claim and begin_warm(owner, claim, record) or 0
local is_begun = told > 0
if claim and not is_begun then
  record.state, record.attempt, record.fence = 'queued', '0', '0'
  record.claimed, record.begun, record.known = nil, nil, nil
end
redis.call('HSET', K.turn, unpack(flat(record)))
redis.call('PEXPIRE', K.turn, A.open_ttl_ms)
read_by(turn)
if A.digest ~= '' then redis.call('SET', K.idempotency, turn, 'PX', A.open_ttl_ms) end

local function note_conversation()
  local fields = {
    tenant = tenant, last_active = int(now), retention = A.retention_ms,
    idle_timeout = A.idle_timeout_ms, lane = A.lane, options = record.options,
    label = A.label ~= '' and A.label or nil,
    caller = caller and caller.conversation or nil,
  }
  if not held[1] then fields.state, fields.created, fields.turns = 'cold', int(now), '0' end
  if not held[4] then fields.fence = '0' end
  if is_begun then
    fields.turn, fields.begun = turn, claim.serial
    step_conversation(K.conversation, 'warm', 'busy', flat(fields))
  else
    redis.call('HSET', K.conversation, unpack(flat(fields)))
  end
end

note_conversation()
if caller then
  local called = key('called', caller.conversation)
  redis.call('SADD', called, conversation)
  redis.call('PEXPIRE', called, int(math.max(redis.call('PTTL', key('conversation', caller.conversation)), 1)))
end
-- That of a conversation with a turn means nothing, so it may stay: the turn's end replaces it.
if held[12] and not is_begun then redis.call('HDEL', K.conversation, 'idle_at') end
if held[12] then redis.call('ZREM', K.idle, conversation) end
local turns = key('conversation_turns', conversation)
local length = redis.call('RPUSH', turns, turn)
list_no_expired(conversation, length, tonumber(A.listed_max))
local kept_until, is_renewed = keep_for(conversation, tenant, A.retention_ms, held[11])
if length == 1 and not is_renewed then redis.call('PEXPIRE', turns, int(kept_until - now)) end
sweep_holds(tenant, expired)
-- Both may have changed the sum; the turn itself is new.
if is_renewed or #expired > 0 then in_all = held_in_all(tenant) end
redis.call('HSET', key('tenant_held', tenant), turn, int(size), 'total', int(in_all + size))
hold_until(tenant, turn, now + A.open_ttl_ms, kept_until)
redis.call('ZADD', K.turns_open, int(is_begun and now + tonumber(A.look_after_ms) or now), turn)
redis.call('ZADD', K.tenant_running, int(now), turn)
redis.call('PEXPIRE', K.tenant_running, A.open_ttl_ms)
-- The list of a tenant's conversations, and what expired in its lists of turns, can wait for the end.
if is_begun then return {'created', 'turn', turn, 'owner', owner, 'ahead', 0, 'told', told} end

if not caller then list_conversation(conversation, tenant, A.lane, now, A.retention_ms, is_renewed) end
redis.call('RPUSH', K.todo, turn)
redis.call('PEXPIRE', K.todo, A.todo_ttl_ms)
redis.call('ZADD', tenant_waiting, int(now), turn)
redis.call('PEXPIRE', tenant_waiting, A.open_ttl_ms)
for _, name in ipairs({K.tenant_running, tenant_waiting}) do
  redis.call('ZREMRANGEBYSCORE', name, '-inf', '(' .. since)
end
-- A living owner hears of it here and now; the waiting room is for the others.
if owner ~= '' then
  told = redis.call('PUBLISH', key('control_channel', owner), A.order)
else
  enter_room(conversation, tenant)
end
return answer('created', turn, told)
