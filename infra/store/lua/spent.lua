-- spent: what a tenant's turns have spent today.
--
-- KEYS  none: those of today it finds by itself
-- ARGV  1 tenant
-- Returns {tokens, ms until the next day}.
local now = now_ms()
return {int(spent_on(ARGV[1], now)), int(ms_to_midnight(now))}
