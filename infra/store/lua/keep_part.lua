-- keep_part: all bytes of a part of an upload are stored.
--
-- KEYS  file, upload, upload_parts
-- ARGS  file, bytes, slack_ms (that parts outlive their upload)
-- Returns 'ok' created_ms | 'gone' | 'closed' | 'much'
local record = redis.call('HMGET', K.file, 'tenant', 'store', 'state', 'held')
local now = now_ms()
if record[3] == 'part' then return {'ok', 'created_ms', int(now)} end -- Its answer was lost.
if record[3] ~= 'uploading' then return {'gone'} end
local upload = redis.call('HMGET', K.upload, 'status', 'bytes', 'received', 'expires')
if upload[1] ~= 'pending' or tonumber(upload[4]) <= now then return {'closed'} end
if (tonumber(upload[3]) or 0) + tonumber(A.bytes) > tonumber(upload[2]) then return {'much'} end
redis.call('HINCRBY', K.upload, 'received', A.bytes)
redis.call('HSET', K.upload_parts, A.file, A.bytes)
redis.call('PEXPIRE', K.upload_parts, redis.call('PTTL', K.upload))
move_file(K.file, 'part')
redis.call('HSET', K.file, 'held', A.bytes)
count_files(record[1], 0, tonumber(A.bytes) - tonumber(record[4]))
redis.call('ZADD', key('files_due', record[2]), int(tonumber(upload[4]) + A.slack_ms), A.file)
return {'ok', 'created_ms', int(now)}
