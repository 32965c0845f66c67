-- meter: books what a turn has used so far, and says what that leaves its budgets.
--
-- KEYS  conversation
-- ARGS  worker, fence, turn, metered (a report, see book)
-- Returns 'ok' turn_tokens, tenant_tokens (today's), day_left_ms | 'lost'
--
-- Harmless to repeat, also after the turn's end.
if not is_owner(K.conversation, A.worker, A.fence) then return {'lost'} end
local turn = read_turn(A.turn)
if not turn or K.conversation ~= key('conversation', turn.conversation) then return {'lost'} end
write_even_when_full()
local spent = book(turn, A.metered ~= '' and cjson.decode(A.metered) or {'', {}})
local now = now_ms()
return {'ok',
  'turn_tokens', int(spent),
  'tenant_tokens', int(spent_on(turn.tenant, now)),
  'day_left_ms', int(ms_to_midnight(now)),
}
