-- mark_delivered: a client has been given the turn's whole answer.
--
-- KEYS  turn
-- Returns 'ok'
if redis.call('EXISTS', K.turn) == 1 then redis.call('HSET', K.turn, 'delivered', '1') end
return {'ok'}
