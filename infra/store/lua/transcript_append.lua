-- transcript_append: keeps new entries of an SDK session, under the owner's fence.
--
-- KEYS  conversation, transcripts, transcript, transcript_seen
-- ARGS  conversation, worker, fence, sdk_session, subpath, session_bytes_max,
--       tenant_bytes_max (0: any number), entries (for each: uuid, json)
-- Returns 'ok' | 'full' | 'lost'
--
-- An entry whose uuid is there is skipped. A session that grows too large, for itself or for what
-- its tenant may hold, is kept no more: half a transcript is worth less than the history the client
-- sends. Besides the conversation's own session only this one is kept (a fork on its way): a third
-- never came to life.
local held = redis.call('HMGET', K.conversation, 'sdk_session', 'transcript_full', 'turn', 'owner', 'fence',
  'tenant')
if held[4] ~= A.worker or held[5] ~= A.fence then return {'lost'} end
local conversation, session, tenant = A.conversation, A.sdk_session, held[6]
if held[2] == session then return {'full'} end

local SEEN_AT_ONCE = 500

-- Which of these uuids are there, in their order.
local function seen(uuids)
  local found = {}
  for first = 1, #uuids, SEEN_AT_ONCE do
    local some = {unpack(uuids, first, math.min(first + SEEN_AT_ONCE - 1, #uuids))}
    for _, is_there in ipairs(redis.call('SMISMEMBER', K.transcript_seen, unpack(some))) do
      found[#found + 1] = is_there
    end
  end
  return found
end

local uuids = {}
for _, entry in ipairs(A.entries) do
  if entry.uuid ~= '' then uuids[#uuids + 1] = entry.uuid end
end
local sizes = redis.call('HGETALL', K.transcripts)
local before = 0
for i = 1, #sizes, 2 do
  if sizes[i] == session then before = tonumber(sizes[i + 1]) end
end

-- The entries that are not there yet, and the transcript's size with them. `is_seen`: of the uuids, in
-- their order.
local function sift(is_seen)
  local fresh, named, at, size = {}, {}, 0, before
  for _, entry in ipairs(A.entries) do
    local uuid = entry.uuid
    if uuid ~= '' then at = at + 1 end
    if uuid == '' or not (named[uuid] or is_seen[at] == 1) then
      if uuid ~= '' then named[uuid] = true end
      fresh[#fresh + 1] = entry
      size = size + #entry.json + ENTRY_BYTES
    end
  end
  return fresh, size
end

local function is_full_at(size)
  if size > tonumber(A.session_bytes_max) then return true end
  local added, bytes_max = in_steps(size) - in_steps(before), tonumber(A.tenant_bytes_max)
  if added <= 0 or not tenant or bytes_max == 0 then return false end
  return held_by(tenant, expired_holds(tenant, now_ms())) + added > bytes_max
end

-- Whether a single entry is there says SADD further down, if it fits in any case.
local is_one = #uuids == 1
local fresh, size = sift(is_one and {} or seen(uuids))
local is_full = is_full_at(size)
if is_full and is_one then
  fresh, size = sift(seen(uuids))
  is_full = is_full_at(size)
end
if is_full then
  write_even_when_full()
  drop_transcript(conversation, session)
  redis.call('HSET', K.conversation, 'transcript_full', session)
  return {'full'}
end

-- In one command each, for the usual handful of entries. Returns how many the last one took.
local function push(command, name, values)
  local taken = 0
  for first = 1, #values, SEEN_AT_ONCE do
    taken = redis.call(command, name, unpack(values, first, math.min(first + SEEN_AT_ONCE - 1, #values)))
  end
  return taken
end

local lines, new = {}, {}
for _, entry in ipairs(fresh) do
  if entry.uuid ~= '' then new[#new + 1] = entry.uuid end
end
if push('SADD', K.transcript_seen, new) == 0 and is_one then fresh, size = sift({1}) end
for _, entry in ipairs(fresh) do lines[#lines + 1] = A.subpath .. '\n' .. entry.json end
push('RPUSH', K.transcript, lines)
redis.call('HSET', K.transcripts, session, int(size))
for i = 1, #sizes, 2 do
  local other = sizes[i]
  if other ~= session and other ~= held[1] then drop_transcript(conversation, other) end
end
-- What is there already is kept as long as its conversation (keep_for).
local ttl = before == 0 and redis.call('PTTL', K.conversation) or 0
if ttl > 0 then
  for _, name in ipairs({K.transcripts, K.transcript, K.transcript_seen}) do
    redis.call('PEXPIRE', name, int(ttl))
  end
end
local added = in_steps(size) - in_steps(before)
if tenant and added ~= 0 then hold(tenant, conversation, added) end
if A.subpath == '' and held[3] then redis.call('HSET', key('turn', held[3]), 'remembered', session) end
return {'ok'}
