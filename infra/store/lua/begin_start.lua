-- begin_start: whether a conversation's agent may start on a host now.
--
-- KEYS  host_starts
-- ARGS  conversation, host, most (starts at once), life_ms (how long this one counts at most)
-- Returns 'ok' | 'full'
--
-- One that take has counted, or that has begun, may go on.
write_even_when_full()
local under_way = starts_under_way(A.host)
if not redis.call('ZSCORE', K.host_starts, A.conversation) and under_way >= tonumber(A.most) then
  return {'full'}
end
add_start(A.host, A.conversation, tonumber(A.life_ms))
return {'ok'}
