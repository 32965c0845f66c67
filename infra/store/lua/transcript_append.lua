-- transcript_append: keeps new entries of an SDK session, under the owner's fence.
--
-- KEYS  1 conversation  2 transcripts  3 transcript  4 transcript_seen
-- ARGV  1 conversation  2 worker  3 fence  4 SDK session  5 subpath or ''  6 most bytes of a session
--       7 bytes its tenant may hold (0: any number), then for each entry: its uuid or '', its JSON
-- Returns {'ok', entries added}, {'full'} or {'lost'}.
--
-- An entry whose uuid is there is skipped. A session that grows too large, for itself or for what
-- its tenant may hold, is kept no more: half a transcript is worth less than the history the client
-- sends. Besides the conversation's own session only this one is kept (a fork on its way): a third
-- never came to life.
if not is_owner(KEYS[1], ARGV[2], ARGV[3]) then return {'lost'} end
local conversation, session = ARGV[1], ARGV[4]
local held = redis.call('HMGET', KEYS[1], 'sdk_session', 'transcript_full', 'turn', 'retention',
  'tenant')
local tenant = held[5]
if held[2] == session then return {'full'} end

local fresh, named = {}, {}
local before = tonumber(redis.call('HGET', KEYS[2], session)) or 0
local size = before
for i = 8, #ARGV, 2 do
  local uuid = ARGV[i]
  if uuid == '' or not (named[uuid] or redis.call('SISMEMBER', KEYS[4], uuid) == 1) then
    if uuid ~= '' then named[uuid] = true end
    fresh[#fresh + 1] = i
    size = size + #ARGV[i + 1]
  end
end
local added, bytes_max = size - before + #fresh * ENTRY_BYTES, tonumber(ARGV[7])
local is_full = size > tonumber(ARGV[6])
if not is_full and tenant and bytes_max > 0 then
  is_full = held_by(tenant, now_ms()) + added > bytes_max
end
if is_full then
  write_even_when_full()
  drop_transcript(conversation, session)
  redis.call('HSET', KEYS[1], 'transcript_full', session)
  return {'full'}
end

for _, i in ipairs(fresh) do
  redis.call('RPUSH', KEYS[3], ARGV[5] .. '\n' .. ARGV[i + 1])
  if ARGV[i] ~= '' then redis.call('SADD', KEYS[4], ARGV[i]) end
end
redis.call('HSET', KEYS[2], session, int(size))
for _, other in ipairs(redis.call('HKEYS', KEYS[2])) do
  if other ~= session and other ~= held[1] then drop_transcript(conversation, other) end
end
local ttl = tonumber(held[4] or redis.call('PTTL', KEYS[1]))
if ttl > 0 then
  for i = 2, 4 do redis.call('PEXPIRE', KEYS[i], int(ttl)) end
end
if tenant then hold(tenant, conversation, added) end
if ARGV[5] == '' and held[3] then redis.call('HSET', key('turn', held[3]), 'remembered', session) end
return {'ok', #fresh}
