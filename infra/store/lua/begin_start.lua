-- begin_start: whether a conversation's agent may start on a host now.
--
-- KEYS  1 host_starts
-- ARGV  1 conversation  2 host  3 most starts at once  4 how long this one counts at most (ms)
-- Returns {1} when it may, {0} when so many are under way already.
--
-- One that take has counted, or that has begun, may go on.
write_even_when_full()
local under_way = starts_under_way(ARGV[2])
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and under_way >= tonumber(ARGV[3]) then return {0} end
add_start(ARGV[2], ARGV[1], tonumber(ARGV[4]))
return {1}
