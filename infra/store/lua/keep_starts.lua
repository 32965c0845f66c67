-- keep_starts: agents of a host are starting still.
--
-- KEYS  1 host_starts
-- ARGV  1 host  2 how long each counts from now (ms), then the conversations
-- Returns {}.
--
-- One that somebody owns no longer ceases to count all the same.
write_even_when_full()
for i = 3, #ARGV do add_start(ARGV[1], ARGV[i], tonumber(ARGV[2])) end
return {}
