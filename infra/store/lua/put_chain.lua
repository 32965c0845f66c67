-- put_chain: a conversation is found under a chain from now on.
--
-- KEYS  1 chain
-- ARGV  1 conversation  2 retention (ms)  3 tenant
-- Returns 1.
--
-- Where another is on record, or was, '*' takes the place of all and stays: nobody is taken any
-- more. A conversation that is forgotten counts too, for its client may still come back to it, and
-- would get the other's container. So a set holds one member, however many say the same.
local is_new = redis.call('EXISTS', KEYS[1]) == 0
for _, conversation in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if conversation ~= ARGV[1] then
    redis.call('DEL', KEYS[1])
    ARGV[1] = '*'
    break
  end
end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if is_new then
  local now = now_ms()
  hold(ARGV[3], 'chains ' .. day_of(now), CHAIN_BYTES, now + ms_to_midnight(now) + ARGV[2])
end
return 1
