-- keep_file: all bytes of a file are stored: from now on its tenant finds it.
--
-- KEYS  file, upload (only for the file that an upload makes)
-- ARGS  file, name, type, purpose, digest, bytes, life_ms ('' for ever), parts (which go now)
-- Returns 'ok' created_ms, expires_ms | 'gone' | 'closed'
local record = redis.call('HMGET', K.file, 'tenant', 'store', 'state', 'held', 'created', 'expires')
local tenant, state = record[1], record[3]
if state == 'ready' then -- Its answer was lost.
  return {'ok', 'created_ms', record[5], 'expires_ms', record[6]}
end
if state ~= 'uploading' then return {'gone'} end
if K.upload then
  if redis.call('HGET', K.upload, 'status') ~= 'pending' then return {'closed'} end
  redis.call('HSET', K.upload, 'status', 'completed', 'file', A.file)
end
local now = now_ms()
local expires = A.life_ms ~= '' and int(now + A.life_ms) or ''
move_file(K.file, 'ready')
redis.call('HSET', K.file, 'held', A.bytes, 'bytes', A.bytes, 'name', A.name, 'type', A.type,
  'purpose', A.purpose, 'digest', A.digest, 'created', int(now), 'expires', expires)
count_files(tenant, 0, tonumber(A.bytes) - tonumber(record[4]))
redis.call('ZADD', key('tenant_files', tenant, 'all'), '0', A.file)
redis.call('ZADD', key('tenant_files', tenant, A.purpose), '0', A.file)
if expires ~= '' then
  redis.call('ZADD', key('files_due', record[2]), expires, A.file)
else
  redis.call('ZREM', key('files_due', record[2]), A.file)
end
for _, part in ipairs(A.parts) do let_file_go(part, now) end
return {'ok', 'created_ms', int(now), 'expires_ms', expires}
