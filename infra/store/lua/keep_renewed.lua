-- keep_renewed: a renewed login takes the place of the one that was renewed, and of no other.
--
-- KEYS  logins
-- ARGS  name, before (what the login was sealed as), login
-- Returns 'ok' is_kept
--
-- Meanwhile an operator may have logged out, or in again. Called again after a lost answer, it says
-- the same.
local held = redis.call('HGET', K.logins, A.name)
if held == A.login then return {'ok', 'is_kept', 1} end
local is_read, known = pcall(cjson.decode, held or '')
if not is_read or type(known) ~= 'table' or known.sealed ~= A.before then
  return {'ok', 'is_kept', 0}
end
redis.call('HSET', K.logins, A.name, A.login)
return {'ok', 'is_kept', 1}
