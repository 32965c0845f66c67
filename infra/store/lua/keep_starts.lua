-- keep_starts: agents of a host are starting still.
--
-- KEYS  none: those of the host it finds by itself
-- ARGS  host, life_ms (how long each counts from now), conversations
-- Returns 'ok'
--
-- One that somebody owns no longer ceases to count all the same.
write_even_when_full()
for _, conversation in ipairs(A.conversations) do
  add_start(A.host, conversation, tonumber(A.life_ms))
end
return {'ok'}
