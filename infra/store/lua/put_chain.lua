-- put_chain: a conversation is found under a chain from now on.
--
-- KEYS  1 chain
-- ARGV  1 conversation  2 retention (ms)
-- Returns 1.
--
-- Where another is on record, or was, '*' takes the place of all and stays: nobody is taken any
-- more. A conversation that is forgotten counts too, for its client may still come back to it, and
-- would get the other's container. So a set holds one member, however many say the same.
for _, conversation in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if conversation ~= ARGV[1] then
    redis.call('DEL', KEYS[1])
    ARGV[1] = '*'
    break
  end
end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
