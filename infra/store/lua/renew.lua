-- renew: prolongs many leases of a worker and brings what somebody wants stopped.
--
-- KEYS  none: those of the leases it finds by itself
-- ARGS  lease_ms, leases (for each: conversation, worker, fence)
-- Returns 'ok' lost (conversations), cancelled (for each: conversation, turn, reason)
--
-- A lapsed lease nobody took is taken up again: the fence is still the newest.
write_even_when_full()
local lost, cancelled = {}, {}
for _, lease in ipairs(A.leases) do
  local conversation_key = key('conversation', lease.conversation)
  if is_owner(conversation_key, lease.worker, lease.fence) then
    local lease_key = key('lease', lease.conversation)
    if redis.call('PEXPIRE', lease_key, A.lease_ms) == 0 then
      redis.call('SET', lease_key, lease.worker, 'PX', A.lease_ms)
    end
    local turn = redis.call('HGET', conversation_key, 'turn')
    local reason = turn and redis.call('HGET', key('turn', turn), 'cancel')
    if reason then
      cancelled[#cancelled + 1] = {
        'conversation', lease.conversation, 'turn', turn, 'reason', reason,
      }
    end
  else
    lost[#lost + 1] = lease.conversation
  end
end
return {'ok', 'lost', lost, 'cancelled', cancelled}
