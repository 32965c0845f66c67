-- counts: numbers for health and metrics.
--
-- KEYS  1 turns_open  2 idle  3 workers
-- Returns {open turns, idle conversations, living workers}.
return {
  redis.call('ZCARD', KEYS[1]),
  redis.call('ZCARD', KEYS[2]),
  redis.call('ZCOUNT', KEYS[3], '(' .. int(now_ms()), '+inf'),
}
