-- list_conversations: those of a tenant, the last used first; forgotten ones leave the list.
--
-- KEYS  tenant_conversations
-- ARGS  most, before_ms (last use of the last one seen, or '+inf'), last (that one, or '')
-- Returns 'ok' found (for each: conversation, last_active_ms, record)
local found = {}
local limit, offset = tonumber(A.most), 0
while #found < limit do
  local page = redis.call('ZREVRANGEBYSCORE', K.tenant_conversations, A.before_ms, '-inf', 'WITHSCORES',
    'LIMIT', offset, limit)
  if #page == 0 then break end
  offset = offset + #page / 2
  for i = 1, #page, 2 do
    local id, score = page[i], int(tonumber(page[i + 1]))
    -- Those of one moment come in falling order of their names.
    if #found < limit and not (score == A.before_ms and id >= A.last) then
      local fields = redis.call('HGETALL', key('conversation', id))
      if #fields > 0 then
        found[#found + 1] = {'conversation', id, 'last_active_ms', score, 'record', fields}
      else
        redis.call('ZREM', K.tenant_conversations, id)
        offset = offset - 1
      end
    end
  end
end
return {'ok', 'found', found}
