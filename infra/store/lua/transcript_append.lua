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
if not is_owner(K.conversation, A.worker, A.fence) then return {'lost'} end
local conversation, session = A.conversation, A.sdk_session
local held = redis.call('HMGET', K.conversation, 'sdk_session', 'transcript_full', 'turn', 'retention',
  'tenant')
local tenant = held[5]
if held[2] == session then return {'full'} end

local fresh, named = {}, {}
local before = tonumber(redis.call('HGET', K.transcripts, session)) or 0
local size = before
for _, entry in ipairs(A.entries) do
  local uuid = entry.uuid
  if uuid == '' or not (named[uuid] or redis.call('SISMEMBER', K.transcript_seen, uuid) == 1) then
    if uuid ~= '' then named[uuid] = true end
    fresh[#fresh + 1] = entry
    size = size + #entry.json
  end
end
local added, bytes_max = size - before + #fresh * ENTRY_BYTES, tonumber(A.tenant_bytes_max)
local is_full = size > tonumber(A.session_bytes_max)
if not is_full and tenant and bytes_max > 0 then
  is_full = held_by(tenant, now_ms()) + added > bytes_max
end
if is_full then
  write_even_when_full()
  drop_transcript(conversation, session)
  redis.call('HSET', K.conversation, 'transcript_full', session)
  return {'full'}
end

for _, entry in ipairs(fresh) do
  redis.call('RPUSH', K.transcript, A.subpath .. '\n' .. entry.json)
  if entry.uuid ~= '' then redis.call('SADD', K.transcript_seen, entry.uuid) end
end
redis.call('HSET', K.transcripts, session, int(size))
for _, other in ipairs(redis.call('HKEYS', K.transcripts)) do
  if other ~= session and other ~= held[1] then drop_transcript(conversation, other) end
end
local ttl = tonumber(held[4] or redis.call('PTTL', K.conversation))
if ttl > 0 then
  for _, name in ipairs({K.transcripts, K.transcript, K.transcript_seen}) do
    redis.call('PEXPIRE', name, int(ttl))
  end
end
if tenant then hold(tenant, conversation, added) end
if A.subpath == '' and held[3] then redis.call('HSET', key('turn', held[3]), 'remembered', session) end
return {'ok'}
