-- How turns are asked to end.

-- Whether a turn has begun but its conversation has no record of it: the record was lost
-- with Redis' data or removed by hand. A claim would never find the turn, so nobody can go on with it.
local function is_adrift(turn)
  return turn.state ~= 'queued' and redis.call('HGET', key('conversation', turn.conversation), 'turn') ~= turn.id
end

-- Asks for the end of a turn that has not ended: a queued one ends at once, as does one that is
-- adrift; of another one the flag is set and its owner told, by the control message `order`.
local function cancel_turn(turn, reason, payload, order, events_max, ended_ttl_ms)
  write_even_when_full()
  if is_adrift(turn) then
    local n = end_turn(turn, 'cancelled', turn.seq + 1, payload, reason, events_max, ended_ttl_ms)
    announce(turn, '0', n, payload)
    return
  end
  if turn.state == 'queued' then
    redis.call('LREM', key('todo', turn.conversation), 0, turn.id)
    local n = end_turn(turn, 'cancelled', turn.seq + 1, payload, reason, events_max, ended_ttl_ms)
    announce(turn, '0', n, payload)
    review_room(turn.conversation, turn.tenant)
    settle(turn.conversation)
    return
  end
  redis.call('HSETNX', turn.key, 'cancel', reason)
  local owner = living_owner(turn.conversation)
  if owner ~= '' then redis.call('PUBLISH', key('control_channel', owner), order) end
end
