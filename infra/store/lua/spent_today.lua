-- spent_today: what a tenant's turns have spent today.
--
-- KEYS  none: those of today it finds by itself
-- ARGS  tenant
-- Returns 'ok' tokens, day_left_ms
local now = now_ms()
return {'ok', 'tokens', int(spent_on(A.tenant, now)), 'day_left_ms', int(ms_to_midnight(now))}
