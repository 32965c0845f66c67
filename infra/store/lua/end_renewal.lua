-- end_renewal: a worker that renewed a login has finished.
--
-- KEYS  renewal
-- ARGS  by
-- Returns 'ok'
--
-- One that took too long leaves the renewal of the next alone.
if redis.call('GET', K.renewal) == A.by then redis.call('DEL', K.renewal) end
return {'ok'}
