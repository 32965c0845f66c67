-- take_chain: the one conversation on record under a chain, if there is exactly one.
--
-- KEYS  1 chain  2 the chain one turn earlier (only when there is one)
-- ARGV  1 retention (ms)
-- Returns the conversation or ''.
--
-- '*' says that there was another, or one that moved on: nobody is taken. Conversations that are
-- forgotten or deleted are not taken either. Who is taken goes on from here: it is no longer found
-- at the chain before, only here (a redone last turn) and where it goes next. So a chat that was
-- copied at an earlier turn gets a container of its own. The chain before keeps '*', not nothing:
-- a chat that says the same later would else be found there by an edit in this chat.
local members = redis.call('SMEMBERS', KEYS[1])
local found = members[1]
if #members ~= 1 or found == '*' then return '' end
if redis.call('EXISTS', key('conversation', found)) == 0 then return '' end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
if KEYS[2] then
  redis.call('DEL', KEYS[2])
  redis.call('SADD', KEYS[2], '*')
  redis.call('PEXPIRE', KEYS[2], ARGV[1])
end
return found
