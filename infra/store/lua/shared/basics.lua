-- What every script may need: keys, numbers, times, who owns what.
--
-- In front of these files stand four tables that infra/store/server/scripts.py makes:
-- KEY                patterns of the keys a script finds only while it runs ("%s" is an id)
-- TURN_NEXT          TURN_NEXT[old][new] is true for a legal step of a turn (infra/wire/states.py)
-- CONVERSATION_NEXT  the same for conversations
-- FILE_NEXT          the same for files
--
-- Numbers above 2^53 never occur; int() is needed all the same, as Lua prints 1.7e+15 otherwise.

-- How long lists of what waits are kept; nothing waits nearly as long.
local WAITING_LIFE_MS = 86400000

local function key(kind, id, second)
  return string.format(KEY[kind], id, second)
end

local function int(number)
  return string.format('%.0f', number)
end

-- The time is asked for once: a script takes none, as far as Redis' keys are concerned.
local TOLD = {}

local function now_us()
  if not TOLD.us then
    local time = redis.call('TIME')
    TOLD.us = tonumber(time[1]) * 1000000 + tonumber(time[2])
  end
  return TOLD.us
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

-- With `noeviction` and a full Redis the first write decides: one that may grow is refused, but
-- after one that cannot grow all others of the script go through. Scripts that give memory back or
-- keep ownership alive call this first; submit and append do not, so they are refused whole.
local function write_even_when_full()
  redis.call('DEL', KEY.nothing)
end

local function is_owner(conversation_key, worker, fence)
  local held = redis.call('HMGET', conversation_key, 'owner', 'fence')
  return held[1] == worker and held[2] == fence
end

-- The living owner of a conversation: '' when its lease has lapsed.
local function living_owner(conversation)
  return redis.call('GET', key('lease', conversation)) or ''
end

local function is_ended(state)
  return next(TURN_NEXT[state]) == nil
end
