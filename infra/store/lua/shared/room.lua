-- The waiting room: conversations with turns that wait for a worker. Not those with a living owner,
-- who is told of each turn; nor those with an unfinished turn, which goes first and is for a worker of
-- its host; nor side turns, which need no container, or those of a lane that only later versions know.

local function waiting_for_worker(conversation)
  local held = redis.call('HMGET', key('conversation', conversation), 'turn', 'lane')
  local found = {}
  if (held[2] or 'agent') ~= 'agent' or living_owner(conversation) ~= '' then return found end
  local unfinished = held[1] and read_turn(held[1])
  if unfinished and not is_ended(unfinished.state) then return found end
  for _, id in ipairs(redis.call('LRANGE', key('todo', conversation), 0, -1)) do
    local turn = read_turn(id)
    if turn and turn.state == 'queued' then found[#found + 1] = turn end
  end
  return found
end

-- A place in the ring behind all others: now, but later than the last one's.
local function last_place()
  local last = redis.call('ZREVRANGE', KEY.ring, 0, 0, 'WITHSCORES')
  return int(math.max(now_ms(), (tonumber(last[2]) or 0) + 1))
end

local function leave_room(conversation, tenant)
  local room = key('room', tenant)
  if redis.call('ZREM', room, conversation) == 0 then return end
  if redis.call('EXISTS', room) == 0 then redis.call('ZREM', KEY.ring, tenant) end
  for _, id in ipairs(redis.call('LRANGE', key('todo', conversation), 0, -1)) do
    redis.call('ZREM', KEY.turns_waiting, id)
  end
end

-- Has a conversation in the room if it belongs there, since its first turn was asked for, else out
-- of it. A tenant that comes into the ring is last. Returns the turn that is to be placed, or nil.
local function enter_room(conversation, tenant)
  local turns = waiting_for_worker(conversation)
  if #turns == 0 then
    leave_room(conversation, tenant)
    return nil
  end
  local room = key('room', tenant)
  redis.call('ZADD', room, int(turns[1].created), conversation)
  if not redis.call('ZSCORE', KEY.ring, tenant) then
    redis.call('ZADD', KEY.ring, last_place(), tenant)
  end
  for _, turn in ipairs(turns) do
    redis.call('ZADD', KEY.turns_waiting, int(turn.created), turn.id)
  end
  for _, name in ipairs({room, KEY.ring, KEY.turns_waiting}) do
    redis.call('PEXPIRE', name, WAITING_LIFE_MS)
  end
  return turns[1]
end

-- After a turn has left its FIFO: what is left may wait for a shorter time, or be nothing.
local function review_room(conversation, tenant)
  if redis.call('ZSCORE', key('room', tenant), conversation) then enter_room(conversation, tenant) end
end
