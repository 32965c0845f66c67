-- unclaimed: open turns due for a look: queued ones nobody claimed, begun ones without an owner.
--
-- KEYS  1 turns_open
-- ARGV  1 how long ago the last look was (ms)  2 most turns  3 longest pause between looks (ms)
--       4 a lease's length (ms)  5 end event of a turn that is adrift  6 its code
--       7 most events of a log  8 an ended turn's life (ms)
-- Returns for each {turn, conversation, state, living owner or '', age (ms), lane,
--       for how long a begun one has had no owner (ms), whether that one left in order 0 | 1}.
--
-- The score is when a turn was last looked at. Each found turn moves ahead, so that sweepers do not
-- all find the same; a waiting one by half its age, so that a full cluster is not flooded with
-- hints; a begun one whose owner lives until its lease would lapse. A queued one without an owner
-- (again) enters the waiting room: its taker may have died. Since when a begun one has had
-- no owner is kept with it, for the next look may be another worker's: an owner that left in order is
-- missed from the first look on, one that fell silent did so a lease earlier. A begun one that its
-- conversation does not know of ends here.
local pause, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = now_ms()
local found = {}
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now - pause),
  'LIMIT', 0, limit * 4)
write_even_when_full()
for _, id in ipairs(due) do
  if #found >= limit then break end
  local turn = read_turn(id)
  if not turn or is_ended(turn.state) then
    redis.call('ZREM', KEYS[1], id)
  elseif is_adrift(turn) then
    local n = end_turn(turn, 'failed', turn.seq + 1, ARGV[5], ARGV[6], ARGV[7], ARGV[8])
    announce(turn, '0', n, ARGV[5])
  else
    local owner = living_owner(turn.conversation)
    local age = math.max(now - turn.created, 0)
    local next_look = now
    local is_found = true
    local unowned, was_left = 0, 0
    if turn.state == 'queued' then
      next_look = now - pause + math.max(pause, math.min(age / 2, tonumber(ARGV[3])))
      if owner == '' then enter_room(turn.conversation, turn.tenant) end
    elseif owner ~= ''
      and redis.call('HGET', key('conversation', turn.conversation), 'fence') == turn.fence then
      is_found = false
      redis.call('HDEL', turn.key, 'unowned')
      next_look = now - pause + math.max(redis.call('PTTL', key('lease', turn.conversation)), 0) + 1
    else
      local fell_silent = redis.call('HEXISTS', key('conversation', turn.conversation), 'owner') == 1
      redis.call('HSETNX', turn.key, 'unowned', int(now - (fell_silent and tonumber(ARGV[4]) or 0)))
      was_left = fell_silent and 0 or 1
      unowned = math.max(now - tonumber(redis.call('HGET', turn.key, 'unowned')), 0)
    end
    redis.call('ZADD', KEYS[1], int(next_look), id)
    if is_found then
      found[#found + 1] = {id, turn.conversation, turn.state, owner, int(age),
        redis.call('HGET', turn.key, 'lane') or 'agent', int(unowned), was_left}
    end
  end
end
return found
