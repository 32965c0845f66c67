-- close_upload: an upload is cancelled, and its parts are to go.
--
-- KEYS  upload, upload_parts
-- ARGS  again_ms (when a sweep looks at its parts)
-- Returns 'ok' parts | 'closed'
local status = redis.call('HGET', K.upload, 'status')
if status ~= 'pending' then return {'closed'} end
write_even_when_full()
redis.call('HSET', K.upload, 'status', 'cancelled')
local parts = redis.call('HKEYS', K.upload_parts)
for _, part in ipairs(parts) do let_file_go(part, now_ms() + A.again_ms) end
return {'ok', 'parts', parts}
