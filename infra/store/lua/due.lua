-- due: conversations whose idle deadline has passed.
--
-- KEYS  1 idle
-- ARGV  1 most conversations
-- Returns for each {conversation, living owner or '', host or ''}. Forgotten ones are dropped.
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now_ms()),
  'LIMIT', 0, tonumber(ARGV[1]))) do
  local conversation_key = key('conversation', id)
  if redis.call('HGET', conversation_key, 'state') then
    found[#found + 1] = {id, living_owner(id), redis.call('HGET', conversation_key, 'host') or ''}
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return found
