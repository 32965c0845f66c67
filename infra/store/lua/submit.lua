-- submit: creates a turn and puts it into its conversation's FIFO, or finds the turn it repeats.
--
-- KEYS  1 conversation  2 todo  3 turn  4 turn_request  5 turns_open  6 idle  7 tenant_running
--       8 idempotency (only when ARGV 12 is not empty)
-- ARGV  1 conversation  2 turn  3 tenant  4 label  5 request JSON  6 replica  7 model
--       8 sealed key  9 its expiry (ms)  10 on_disconnect  11 most turns that may wait
--       12 idempotency digest or ''  13 its life (ms)  14 retention (ms)  15 an open turn's life (ms)
--       16 the FIFO's life (ms)  17 idle timeout (ms)
--       18 lane  19 turn that the request is known not to repeat, or ''
--       20 most turns that are listed of a conversation besides those on record  21 control message for the owner
--       22 most turns that may wait for a worker  23 most open turns of a tenant
--       24 most of them that may wait (each 0: any number)
--       25 tokens a tenant may spend in a day (0: any number)
--       26 egress profile, or '' for the one the conversation has
--       27 bytes a tenant may hold here, this request included (0: any number)
--       28 who will read it, or ''  29 earlier turns of the digest it may repeat: 'any', or
--       'left' (only one under way that nobody reads any more)
--       30 1 when its client may be one that sends only what is new
-- Returns {'created' | 'joined' | 'repeated', turn, living owner or '', turns ahead, owners told} or
--       {'conversation' | 'cluster' | 'tenant' | 'tenant_queue', turns there are, age of the oldest (ms)}:
--       the bound that is reached; or {'budget', tokens spent today, ms until the next day}, or
--       {'tenant_bytes', bytes it holds, '0'}.
--
-- Called again after a lost answer it finds its own turn and says 'created' again. A repeat of a
-- turn that ended before anybody claimed it is a new turn: nothing of it can have happened.
-- A repeat is never refused. Of a turn under way it is a reader from this step on ('joined'), so that
-- nobody's hang-up ends the turn any more; what becomes of one that has ended, or is being cancelled,
-- is the caller's to say ('repeated'). Without a living owner the conversation enters the waiting room.
local conversation, turn, tenant = ARGV[1], ARGV[2], ARGV[3]

local function answer(word, id, told)
  local ahead = 0
  local running = redis.call('HGET', KEYS[1], 'turn')
  if running and running ~= id then ahead = 1 end
  for place, waiting in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do
    if waiting == id then return {word, id, living_owner(conversation), ahead + place - 1, told or 0} end
  end
  return {word, id, living_owner(conversation), 0, told or 0}
end

if redis.call('EXISTS', KEYS[3]) == 1 then return answer('created', turn) end
local function read_by(id)
  if ARGV[28] == '' then return end
  redis.call('SADD', key('turn_readers', id), ARGV[28])
  redis.call('PEXPIRE', key('turn_readers', id), ARGV[15])
end

local function may_repeat(found)
  if not found or found.id == ARGV[19] then return false end
  if ARGV[29] == 'left' then
    return not is_ended(found.state) and not found.cancel
      and redis.call('EXISTS', key('turn_readers', found.id)) == 0
  end
  return not (is_ended(found.state) and found.attempt == 0)
end

if ARGV[12] ~= '' then
  local earlier = redis.call('GET', KEYS[8])
  local found = earlier and read_turn(earlier)
  if may_repeat(found) then
    if is_ended(found.state) or found.cancel then return answer('repeated', earlier) end
    read_by(earlier)
    if ARGV[10] == 'continue' then redis.call('HSET', found.key, 'on_disconnect', ARGV[10]) end
    return answer('joined', earlier)
  end
end
local now, owner = now_ms(), living_owner(conversation)
-- Only reads: turns whose records have expired are left out, and removed further down.
local since = int(now - tonumber(ARGV[15]))

local function refusal(word, turns, most)
  if tonumber(most) == 0 then return nil end
  local count = redis.call('ZCOUNT', turns, since, '+inf')
  if count < tonumber(most) then return nil end
  local oldest = redis.call('ZRANGEBYSCORE', turns, since, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return {word, count, int(math.max(now - tonumber(oldest[2]), 0))}
end

local waiting = redis.call('LLEN', KEYS[2])
if waiting >= tonumber(ARGV[11]) then return {'conversation', waiting, '0'} end
local tenant_waiting = key('tenant_waiting', tenant)
local refused = refusal('tenant', KEYS[7], ARGV[23]) or refusal('tenant_queue', tenant_waiting, ARGV[24])
if not refused and ARGV[18] ~= 'side' and owner == '' then
  refused = refusal('cluster', KEY.turns_waiting, ARGV[22])
end
if refused then return refused end
local budget = tonumber(ARGV[25])
if budget > 0 then
  local spent = spent_on(tenant, now)
  if spent >= budget then return {'budget', int(spent), int(ms_to_midnight(now))} end
end

local bytes_max, size = tonumber(ARGV[27]), #ARGV[5] + TURN_BYTES
if bytes_max > 0 then
  local held = held_by(tenant, now)
  if held + size > bytes_max then
    sweep_holds(tenant, now)
    return {'tenant_bytes', int(held), '0'}
  end
end

-- The first write may grow: a full Redis refuses the script here, before anything has changed.
redis.call('SET', KEYS[4], ARGV[5], 'PX', ARGV[15])
redis.call('HSET', KEYS[3],
  'conv', conversation, 'tenant', tenant, 'lane', ARGV[18], 'replica', ARGV[6], 'model', ARGV[7],
  'state', 'queued', 'attempt', '0', 'fence', '0', 'seq', '0', 'created', int(now),
  'on_disconnect', ARGV[10], 'key_sealed', ARGV[8], 'key_expires', ARGV[9], 'idem', ARGV[12],
  'thin', ARGV[30])
redis.call('PEXPIRE', KEYS[3], ARGV[15])
read_by(turn)
if ARGV[12] ~= '' then redis.call('SET', KEYS[8], turn, 'PX', ARGV[13]) end

if not redis.call('HGET', KEYS[1], 'state') then
  redis.call('HSET', KEYS[1], 'state', 'cold', 'created', int(now), 'turns', '0')
end
redis.call('HSETNX', KEYS[1], 'fence', '0')
redis.call('HSET', KEYS[1], 'tenant', tenant, 'last_active', int(now),
  'retention', ARGV[14], 'idle_timeout', ARGV[17], 'lane', ARGV[18])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'label', ARGV[4]) end
if ARGV[26] ~= '' then redis.call('HSET', KEYS[1], 'profile', ARGV[26]) end
redis.call('HDEL', KEYS[1], 'idle_at')
redis.call('RPUSH', key('conversation_turns', conversation), turn)
list_no_expired(conversation, tonumber(ARGV[20]))
keep_for(conversation, tenant, ARGV[14])
sweep_holds(tenant, now)
hold(tenant, turn, size, now + ARGV[15])
list_conversation(conversation, tenant, ARGV[18], now, ARGV[14])

redis.call('RPUSH', KEYS[2], turn)
redis.call('PEXPIRE', KEYS[2], ARGV[16])
redis.call('ZREM', KEYS[6], conversation)
redis.call('ZADD', KEYS[5], int(now), turn)
redis.call('ZADD', KEYS[7], int(now), turn)
redis.call('ZADD', tenant_waiting, int(now), turn)
for _, turns in ipairs({KEYS[7], tenant_waiting}) do
  redis.call('ZREMRANGEBYSCORE', turns, '-inf', '(' .. since)
  redis.call('PEXPIRE', turns, ARGV[15])
end
-- A warm conversation's owner hears of it here and now; the waiting room is for the others.
local told = 0
if owner ~= '' then
  told = redis.call('PUBLISH', key('control_channel', owner), ARGV[21])
else
  enter_room(conversation, tenant)
end
return answer('created', turn, told)
