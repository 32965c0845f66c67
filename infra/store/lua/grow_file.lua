-- grow_file: that many bytes of a file have come; it is removed if nothing more is heard of it.
--
-- KEYS  file
-- ARGS  file, bytes (so far), bytes_max (0: any), alive_ms
-- Returns 'ok' | 'much' | 'gone'
local record = redis.call('HMGET', K.file, 'tenant', 'store', 'state', 'held')
if record[3] ~= 'uploading' then return {'gone'} end
local more = tonumber(A.bytes) - tonumber(record[4])
if is_too_much(record[1], more, tonumber(A.bytes_max)) then return {'much'} end
if more > 0 then
  redis.call('HSET', K.file, 'held', A.bytes)
  count_files(record[1], 0, more)
end
redis.call('ZADD', key('files_due', record[2]), int(now_ms() + A.alive_ms), A.file)
return {'ok'}
