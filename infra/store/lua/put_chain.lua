-- put_chain: a conversation is found under a chain from now on.
--
-- KEYS  1 chain
-- ARGV  1 conversation  2 retention (ms)
-- Returns 1.
--
-- Two are as good as many: neither is taken any more. So a set stays small, however often a robot
-- says the same to the same answer.
local living = 0
for _, conversation in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('EXISTS', key('conversation', conversation)) == 1 then
    living = living + 1
  else
    redis.call('SREM', KEYS[1], conversation)
  end
end
if living < 2 then redis.call('SADD', KEYS[1], ARGV[1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
