-- put_chain: a conversation is found under a chain from now on.
--
-- KEYS  chain
-- ARGS  conversation, retention_ms, tenant
-- Returns 'ok'
--
-- Where another is on record, or was, '*' takes the place of all and stays: nobody is taken any
-- more. A conversation that is forgotten counts too, for its client may still come back to it, and
-- would get the other's container. So a set holds one member, however many say the same.
local found = A.conversation
local is_new = redis.call('EXISTS', K.chain) == 0
for _, conversation in ipairs(redis.call('SMEMBERS', K.chain)) do
  if conversation ~= found then
    redis.call('DEL', K.chain)
    found = '*'
    break
  end
end
redis.call('SADD', K.chain, found)
redis.call('PEXPIRE', K.chain, A.retention_ms)
if is_new then
  local now = now_ms()
  hold(A.tenant, 'chains ' .. day_of(now), CHAIN_BYTES, now + ms_to_midnight(now) + A.retention_ms)
end
return {'ok'}
