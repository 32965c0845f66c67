-- meter: books what a turn has used so far, and says what that leaves its budgets.
--
-- KEYS  1 conversation
-- ARGV  1 worker  2 fence  3 turn  4 report (JSON, see book in the prelude) or ''
-- Returns {'ok', the turn's spent tokens, its tenant's today, ms until the next day} or {'lost'}.
--
-- Harmless to repeat, also after the turn's end.
if not is_owner(KEYS[1], ARGV[1], ARGV[2]) then return {'lost'} end
local turn = read_turn(ARGV[3])
if not turn or KEYS[1] ~= key('conversation', turn.conversation) then return {'lost'} end
write_even_when_full()
local spent = book(turn, ARGV[4] ~= '' and cjson.decode(ARGV[4]) or {'', {}})
local now = now_ms()
return {'ok', int(spent), int(spent_on(turn.tenant, now)), int(ms_to_midnight(now))}
