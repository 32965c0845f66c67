-- renew: prolongs many leases of a worker and brings what somebody wants stopped.
--
-- KEYS  for each lease: its conversation, its lease
-- ARGV  1 the lease's life (ms), then for each lease: worker, fence
-- Returns for each lease {'lost'} or {'ok', turn or '', reason or ''}; a reason means: cancel it.
--
-- A lapsed lease nobody took is taken up again: the fence is still the newest.
write_even_when_full()
local answers = {}
for i = 1, #KEYS / 2 do
  local conversation_key, lease_key = KEYS[2 * i - 1], KEYS[2 * i]
  local worker, fence = ARGV[2 * i], ARGV[2 * i + 1]
  if is_owner(conversation_key, worker, fence) then
    if redis.call('PEXPIRE', lease_key, ARGV[1]) == 0 then
      redis.call('SET', lease_key, worker, 'PX', ARGV[1])
    end
    local turn = redis.call('HGET', conversation_key, 'turn')
    local reason = turn and redis.call('HGET', key('turn', turn), 'cancel')
    answers[i] = {'ok', turn or '', reason or ''}
  else
    answers[i] = {'lost'}
  end
end
return answers
