-- A conversation's record, what belongs to it, and its lists.

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
    key('conversation_usage', conversation), key('unheard', conversation), key('called', conversation), transcripts}
  for _, session in ipairs(redis.call('HKEYS', transcripts)) do
    names[#names + 1] = key('transcript', conversation, session)
    names[#names + 1] = key('transcript_seen', conversation, session)
  end
  return names
end

-- Keeps a conversation for its retention, at the least: each time for an eighth longer, so that it is
-- done anew only when that is used up. `kept_until` is the field of that name. Returns when it expires
-- (ms), and whether something was done.
local function keep_for(conversation, tenant, retention_ms, kept_until)
  local retention, now = tonumber(retention_ms), now_ms()
  local left = (tonumber(kept_until) or 0) - now
  if left >= retention and left <= retention * 9 / 8 then return tonumber(kept_until), false end
  local life = int(retention * 9 / 8)
  local is_new = redis.call('HEXISTS', key('tenant_held', tenant), conversation) == 0
  hold(tenant, conversation, is_new and CONVERSATION_BYTES or 0, now + life)
  redis.call('HSET', key('conversation', conversation), 'kept_until', int(now + life))
  redis.call('PEXPIRE', key('conversation', conversation), life)
  for _, name in ipairs(belongings(conversation)) do redis.call('PEXPIRE', name, life) end
  return now + life, true
end

-- How many turns are looked at when one comes: more than come, so that the list gets shorter.
local UNLISTED_MAX = 20

-- The list of a conversation's turns, `length` long, names all turns on record, because a delete finds
-- them by it. Beyond `most` it drops those that are no longer on record.
local function list_no_expired(conversation, length, most)
  local list = key('conversation_turns', conversation)
  for _ = 1, math.min(length - most, UNLISTED_MAX) do
    if redis.call('EXISTS', key('turn', redis.call('LINDEX', list, 0))) == 1 then return end
    redis.call('LPOP', list)
  end
end

-- Lists a conversation under its tenant as used now; a side turn's never. `is_renewed`: it was just
-- said anew how long it is kept, so the list is tidied too.
local function list_conversation(conversation, tenant, lane, now, retention_ms, is_renewed)
  if lane == 'side' then return end
  local index = key('tenant_conversations', tenant)
  redis.call('ZADD', index, int(now), conversation)
  if not is_renewed then return end
  local life = int(tonumber(retention_ms) * 9 / 8)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', int(now - life))
  redis.call('PEXPIRE', index, life)
end

local function drop_transcript(conversation, session)
  local tenant = redis.call('HGET', key('conversation', conversation), 'tenant')
  if tenant then
    local size = tonumber(redis.call('HGET', key('transcripts', conversation), session)) or 0
    hold(tenant, conversation, -in_steps(size))
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

-- Adds to a turn's fields, from its first event, that the agent took it in, and under which session.
local function add_started(fields, payload)
  if string.sub(payload, 1, 17) ~= '{"type":"started"' then return end
  local is_read, event = pcall(cjson.decode, payload)
  local session = is_read and event.sdk_session
  if type(session) ~= 'string' or #session > 64 or not string.match(session, '^[%w-]*$') then
    session = ''
  end
  fields[#fields + 1], fields[#fields + 2] = 'sdk_session', session
end
