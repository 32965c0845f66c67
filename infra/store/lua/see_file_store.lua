-- see_file_store: a program uses that file store. Which others are in use?
--
-- KEYS  file_stores
-- ARGS  store, alive_ms
-- Returns 'ok' others
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', K.file_stores, '-inf', int(now))
redis.call('ZADD', K.file_stores, int(now + A.alive_ms), A.store)
local others = {}
for _, store in ipairs(redis.call('ZRANGE', K.file_stores, 0, -1)) do
  if store ~= A.store then others[#others + 1] = store end
end
return {'ok', 'others', others}
