-- hint: puts a job into an arq queue, behind what is there, and rings the bell.
--
-- KEYS  1 queue  2 job  3 bell
-- ARGV  1 job id  2 job  3 its life (ms)  4 the queue's life (ms)  5 the bell's life (ms)
--       6 most rings that are kept
-- Returns 1.
--
-- arq starts a job when the worker's clock has reached its score, and writes the clock of the
-- machine that enqueued it there. Two machines differ by more than the millisecond a hint takes, so the score
-- is a place in the queue instead: no clock is behind it.
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[1], int((tonumber(last[2]) or 0) + 1), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('LPUSH', KEYS[3], '1')
redis.call('LTRIM', KEYS[3], 0, ARGV[6] - 1)
redis.call('PEXPIRE', KEYS[3], ARGV[5])
return 1
