-- unclaimed: open turns due for a look: queued ones nobody claimed, begun ones without an owner.
--
-- KEYS  turns_open
-- ARGS  pause_ms (since the last look), most, pause_max_ms (between looks), lease_ms,
--       adrift (end event of a turn that is), adrift_code, events_max, ended_ttl_ms
-- Returns 'ok' found (for each: turn, conversation, state, owner, age_ms, lane, unowned_ms, is_left)
--
-- `owner` is a living one, or ''; `unowned_ms` says for how long a begun one has had no owner, and
-- `is_left` whether that one left in order.
--
-- The score is when a turn was last looked at. Each found turn moves ahead, so that sweepers do not
-- all find the same; a waiting one by half its age, so that a full cluster is not flooded with
-- hints; a begun one whose owner lives until its lease would lapse. A queued one without an owner
-- (again) enters the waiting room: its taker may have died. Since when a begun one has had
-- no owner is kept with it, for the next look may be another worker's: an owner that left in order is
-- missed from the first look on, one that fell silent did so a lease earlier. An owner may have missed
-- the message of a turn that submit began for it: it is told again until something is logged. A begun one that its
-- conversation does not know of ends here.
local pause, most = tonumber(A.pause_ms), tonumber(A.most)
local now = now_ms()
local found = {}
local due = redis.call('ZRANGEBYSCORE', K.turns_open, '-inf', int(now - pause),
  'LIMIT', 0, most * 4)
write_even_when_full()
for _, id in ipairs(due) do
  if #found >= most then break end
  local turn = read_turn(id)
  if not turn or is_ended(turn.state) then
    redis.call('ZREM', K.turns_open, id)
    if not turn then redis.call('UNLINK', key('turn_readers', id)) end
  elseif is_adrift(turn) then
    local n = end_turn(turn, 'failed', turn.seq + 1, A.adrift, A.adrift_code, A.events_max, A.ended_ttl_ms)
    announce(turn, '0', n, A.adrift)
  else
    local owner = living_owner(turn.conversation)
    local age = math.max(now - turn.created, 0)
    local next_look = now
    local is_found = true
    local unowned, was_left = 0, 0
    if turn.state == 'queued' then
      next_look = now - pause + math.max(pause, math.min(age / 2, tonumber(A.pause_max_ms)))
      if owner == '' then enter_room(turn.conversation, turn.tenant) end
    elseif owner ~= ''
      and redis.call('HGET', key('conversation', turn.conversation), 'fence') == turn.fence then
      is_found = false
      redis.call('HDEL', turn.key, 'unowned')
      if turn.seq == 0 and is_begun_unsaid(turn) then
        local order = {type = 'turn_waits', conversation = turn.conversation, turn = id}
        redis.call('PUBLISH', key('control_channel', owner), cjson.encode(order))
      end
      next_look = now - pause + math.max(redis.call('PTTL', key('lease', turn.conversation)), 0) + 1
    else
      local fell_silent = redis.call('HEXISTS', key('conversation', turn.conversation), 'owner') == 1
      redis.call('HSETNX', turn.key, 'unowned', int(now - (fell_silent and tonumber(A.lease_ms) or 0)))
      was_left = fell_silent and 0 or 1
      unowned = math.max(now - tonumber(redis.call('HGET', turn.key, 'unowned')), 0)
    end
    redis.call('ZADD', K.turns_open, int(next_look), id)
    if is_found then
      found[#found + 1] = {
        'turn', id,
        'conversation', turn.conversation,
        'state', turn.state,
        'owner', owner,
        'age_ms', int(age),
        'lane', redis.call('HGET', turn.key, 'lane') or 'agent',
        'unowned_ms', int(unowned),
        'is_left', was_left,
      }
    end
  end
end
return {'ok', 'found', found}
