-- list: a tenant's conversations, the last used first; forgotten ones leave the list.
--
-- KEYS  1 tenant_conversations
-- ARGV  1 most conversations  2 last use of the last one seen (ms) or '+inf'  3 that one or ''
-- Returns for each {conversation, last use (ms), its hash}.
local found = {}
local limit, offset = tonumber(ARGV[1]), 0
while #found < limit do
  local page = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[2], '-inf', 'WITHSCORES',
    'LIMIT', offset, limit)
  if #page == 0 then break end
  offset = offset + #page / 2
  for i = 1, #page, 2 do
    local id, score = page[i], int(tonumber(page[i + 1]))
    -- Those of one moment come in falling order of their names.
    if #found < limit and not (score == ARGV[2] and id >= ARGV[3]) then
      local fields = redis.call('HGETALL', key('conversation', id))
      if #fields > 0 then
        found[#found + 1] = {id, score, fields}
      else
        redis.call('ZREM', KEYS[1], id)
        offset = offset - 1
      end
    end
  end
end
return found
