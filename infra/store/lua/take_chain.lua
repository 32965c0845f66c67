-- take_chain: the one conversation on record under a chain, if there is exactly one.
--
-- KEYS  chain, earlier (the chain one turn earlier, only when there is one)
-- ARGS  retention_ms
-- Returns 'found' conversation | 'none'
--
-- '*' says that there was another, or one that moved on: nobody is taken. Conversations that are
-- forgotten or deleted are not taken either. Who is taken goes on from here: it is no longer found
-- at the chain before, only here (a redone last turn) and where it goes next. So a chat that was
-- copied at an earlier turn gets a container of its own. The chain before keeps '*', not nothing:
-- a chat that says the same later would else be found there by an edit in this chat.
local members = redis.call('SMEMBERS', K.chain)
local found = members[1]
if #members ~= 1 or found == '*' then return {'none'} end
if redis.call('EXISTS', key('conversation', found)) == 0 then return {'none'} end
redis.call('PEXPIRE', K.chain, A.retention_ms)
if K.earlier then
  redis.call('DEL', K.earlier)
  redis.call('SADD', K.earlier, '*')
  redis.call('PEXPIRE', K.earlier, A.retention_ms)
end
return {'found', 'conversation', found}
