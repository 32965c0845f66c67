-- drop_file: a file is to go: nobody finds it any more.
--
-- KEYS  file
-- ARGS  file, tenant ('' for any), again_ms (when a sweep looks at it)
-- Returns 'ok' | 'none'
--
-- Its bytes are removed after that, by the caller, or by a sweep if the caller dies.
local record = redis.call('HMGET', K.file, 'tenant', 'state')
if not record[2] or record[2] == 'deleting' then return {'none'} end
if A.tenant ~= '' and (record[1] ~= A.tenant or record[2] ~= 'ready') then return {'none'} end
write_even_when_full()
let_file_go(A.file, now_ms() + A.again_ms)
return {'ok'}
