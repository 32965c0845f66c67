-- forget_file: the bytes of a file that was to go are gone, and so is its record.
--
-- KEYS  file, files_due
-- ARGS  file
-- Returns 'ok'
local state = redis.call('HGET', K.file, 'state')
if not state or state == 'deleting' then
  redis.call('DEL', K.file)
  redis.call('ZREM', K.files_due, A.file)
end
return {'ok'}
