-- note_made: a conversation's agent has made a file, which is about to be kept.
--
-- KEYS  conversation, conversation_made
-- ARGS  file, path, most (files of a conversation), life_ms (of the file)
-- Returns 'ok' | 'gone' (the conversation)
--
-- Beyond the most, what is no file any more makes room, and then its oldest files go.
if redis.call('EXISTS', K.conversation) == 0 then return {'gone'} end
redis.call('HSET', K.conversation_made, A.file, A.path)
if redis.call('PTTL', K.conversation_made) < tonumber(A.life_ms) then
  redis.call('PEXPIRE', K.conversation_made, A.life_ms)
end
if redis.call('HLEN', K.conversation_made) > tonumber(A.most) then
  local files = redis.call('HKEYS', K.conversation_made)
  table.sort(files)
  local living = {}
  for _, file in ipairs(files) do
    local state = redis.call('HGET', key('file', file), 'state')
    if state and state ~= 'deleting' then
      table.insert(living, file)
    else
      redis.call('HDEL', K.conversation_made, file)
    end
  end
  for i = 1, #living - tonumber(A.most) do
    let_file_go(living[i], now_ms())
    redis.call('HDEL', K.conversation_made, living[i])
  end
end
return {'ok'}
