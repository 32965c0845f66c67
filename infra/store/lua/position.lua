-- position: how many turns will be started before a waiting one.
--
-- KEYS  ring
-- ARGS  turn, tenants_max (that are looked at)
-- Returns 'waits' ahead | 'no'
--
-- First the turns of its own conversation that go before it. If the conversation is in the waiting
-- room: its tenant is served once in each round, so a tenant with n conversations in the room goes
-- before it min(n, r) times, r being its place among its tenant's (one time more where that tenant
-- is before its own in the ring).
--
-- Costs one command for each tenant that is looked at: a hundred, a fraction of a millisecond. Those
-- beyond are taken to have enough waiting in every round, as far as so much waits at all.
local turn = read_turn(A.turn)
if not turn or turn.state ~= 'queued' then return {'no'} end

local ahead = 0
local unfinished = redis.call('HGET', key('conversation', turn.conversation), 'turn')
if unfinished and unfinished ~= turn.id then ahead = 1 end
for place, id in ipairs(redis.call('LRANGE', key('todo', turn.conversation), 0, -1)) do
  if id == turn.id then ahead = ahead + place - 1 end
end

local rank = redis.call('ZRANK', key('room', turn.tenant), turn.conversation)
local own = redis.call('ZRANK', K.ring, turn.tenant)
if not rank or not own then return {'waits', 'ahead', ahead} end
-- The first of its tenant's: each tenant before it has something, and each after it comes later.
if rank == 0 then return {'waits', 'ahead', ahead + own} end

local before, seen = rank, redis.call('ZCARD', key('room', turn.tenant))
local tenants = redis.call('ZRANGE', K.ring, 0, tonumber(A.tenants_max) - 1)
for place, tenant in ipairs(tenants) do
  if tenant ~= turn.tenant then
    local count = redis.call('ZCARD', key('room', tenant))
    seen = seen + count
    before = before + math.min(count, place <= own and rank + 1 or rank)
  end
end
local last = redis.call('ZCARD', K.ring) - 1
if last >= #tenants then
  local between = math.max(own - #tenants, 0)
  local after = last - math.max(own, #tenants - 1)
  local rounds = between * (rank + 1) + after * rank
  local rest = math.max(redis.call('ZCARD', KEY.turns_waiting) - seen, 0)
  before = before + math.min(rounds, rest)
end
return {'waits', 'ahead', ahead + before}
