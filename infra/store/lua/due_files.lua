-- due_files: files to remove: expired ones, uploads that stopped, and what others did not finish.
--
-- KEYS  files_due
-- ARGS  most, again_ms (when another sweep looks at them)
-- Returns 'ok' found
--
-- They go to the one that asks first. Should it die, they are due again.
write_even_when_full()
local now = now_ms()
local found = redis.call('ZRANGEBYSCORE', K.files_due, '-inf', int(now), 'LIMIT', 0, A.most)
for _, file in ipairs(found) do
  let_file_go(file, now)
  redis.call('ZADD', K.files_due, int(now + A.again_ms), file)
end
return {'ok', 'found', found}
