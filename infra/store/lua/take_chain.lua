-- take_chain: the one conversation on record under a chain, if there is exactly one.
--
-- KEYS  1 chain  2 the chain one turn earlier (only when there is one)
-- ARGV  1 retention (ms)
-- Returns the conversation or ''.
--
-- Conversations that are forgotten or deleted do not count. Who is taken goes on from here: it is
-- no longer found at the chain before, only here (a redone last turn) and where it goes next. So a
-- chat that was copied at an earlier turn gets a container of its own.
local found, count = '', 0
for _, conversation in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('EXISTS', key('conversation', conversation)) == 1 then
    found, count = conversation, count + 1
  end
end
if count ~= 1 then return '' end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
if KEYS[2] then redis.call('SREM', KEYS[2], found) end
return found
