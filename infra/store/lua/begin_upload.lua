-- begin_upload: a file that will come in parts is announced.
--
-- KEYS  upload, tenant_uploads
-- ARGS  upload, tenant, name, bytes, purpose, type, life (s, of the file; '' for ever),
--       open_ms (that it takes parts), shown_ms (that it is known after that), most
-- Returns 'ok' created_ms, expires_ms | 'many'
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', K.tenant_uploads, '-inf', int(now))
if redis.call('ZCARD', K.tenant_uploads) >= tonumber(A.most) then return {'many'} end
local expires = now + A.open_ms
local gone = int(expires + A.shown_ms)
redis.call('HSET', K.upload, 'tenant', A.tenant, 'status', 'pending', 'name', A.name,
  'bytes', A.bytes, 'purpose', A.purpose, 'type', A.type, 'life', A.life,
  'created', int(now), 'expires', int(expires))
redis.call('PEXPIREAT', K.upload, gone)
redis.call('ZADD', K.tenant_uploads, gone, A.upload)
redis.call('PEXPIREAT', K.tenant_uploads, gone)
return {'ok', 'created_ms', int(now), 'expires_ms', int(expires)}
