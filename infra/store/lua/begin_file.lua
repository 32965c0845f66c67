-- begin_file: a file whose bytes are about to come. It counts from now on.
--
-- KEYS  file, tenant_filed, files_due
-- ARGS  file, tenant, store, bytes (announced), files_max (0: any), bytes_max (0: any), alive_ms
-- Returns 'ok' | 'many' | 'much'
if redis.call('EXISTS', K.file) == 1 then return {'ok'} end
local most, announced = tonumber(A.files_max), tonumber(A.bytes)
local files = tonumber(redis.call('HGET', K.tenant_filed, 'files')) or 0
if most > 0 and files >= most then return {'many'} end
if is_too_much(A.tenant, announced, tonumber(A.bytes_max)) then return {'much'} end
redis.call('HSET', K.file, 'tenant', A.tenant, 'store', A.store, 'state', 'uploading', 'held', A.bytes)
count_files(A.tenant, 1, announced)
redis.call('ZADD', K.files_due, int(now_ms() + A.alive_ms), A.file)
return {'ok'}
