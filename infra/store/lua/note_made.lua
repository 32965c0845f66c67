-- note_made: a conversation's agent has made a file, which is about to be kept.
--
-- KEYS  conversation, conversation_made
-- ARGS  file, path, most (files of a conversation), life_ms (of the file)
-- Returns 'ok' | 'gone' (the conversation)
--
-- Beyond the most, its oldest files go.
if redis.call('EXISTS', K.conversation) == 0 then return {'gone'} end
redis.call('HSET', K.conversation_made, A.file, A.path)
if redis.call('PTTL', K.conversation_made) < tonumber(A.life_ms) then
  redis.call('PEXPIRE', K.conversation_made, A.life_ms)
end
local more = redis.call('HLEN', K.conversation_made) - tonumber(A.most)
if more > 0 then
  local files = redis.call('HKEYS', K.conversation_made)
  table.sort(files)
  for i = 1, more do
    let_file_go(files[i], now_ms())
    redis.call('HDEL', K.conversation_made, files[i])
  end
end
return {'ok'}
