-- hint: puts a job into an arq queue, behind what is there, and rings the bell.
--
-- KEYS  queue, job, bell
-- ARGS  job_id, job, job_ttl_ms, queue_ttl_ms, bell_ttl_ms, rings_max (that are kept)
-- Returns 'ok'
--
-- arq starts a job when the worker's clock has reached its score, and writes the clock of the
-- machine that enqueued it there. Two machines differ by more than the millisecond a hint takes, so the score
-- is a place in the queue instead: no clock is behind it.
local last = redis.call('ZREVRANGE', K.queue, 0, 0, 'WITHSCORES')
redis.call('SET', K.job, A.job, 'PX', A.job_ttl_ms)
redis.call('ZADD', K.queue, int((tonumber(last[2]) or 0) + 1), A.job_id)
redis.call('PEXPIRE', K.queue, A.queue_ttl_ms)
redis.call('LPUSH', K.bell, '1')
redis.call('LTRIM', K.bell, 0, A.rings_max - 1)
redis.call('PEXPIRE', K.bell, A.bell_ttl_ms)
return {'ok'}
