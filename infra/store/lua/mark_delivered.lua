-- mark_delivered: a client has been given the turn's whole answer.
--
-- KEYS  1 turn
-- Returns 1.
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'delivered', '1') end
return 1
