-- What turns use, as their gateways metered it.

local USAGE_DAY_LIFE_MS = 62 * 86400000
local USAGE_LIFE_MS = 400 * 86400000
local USAGE_FIGURES = {'calls', 'input_tokens', 'output_tokens', 'cache_creation_input_tokens',
  'cache_read_input_tokens', 'thinking_tokens'}
-- The part of them that counts against a budget.
local IS_SPENT = {input_tokens = true, output_tokens = true, cache_creation_input_tokens = true}

-- The day of a time in UTC, as `20260131` (the civil calendar from days, by H. Hinnant's algorithm).
local function day_of(ms)
  local days = math.floor(ms / 86400000) + 719468
  local era = math.floor(days / 146097)
  local of_era = days - era * 146097
  local year_of_era = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year_of_era + math.floor(year_of_era / 4)
    - math.floor(year_of_era / 100))
  local shifted = math.floor((5 * of_year + 2) / 153)
  local day = of_year - math.floor((153 * shifted + 2) / 5) + 1
  local month = shifted < 10 and shifted + 3 or shifted - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d%02d%02d', year, month, day)
end

local function ms_to_midnight(ms)
  return 86400000 - ms % 86400000
end

local function spent_on(tenant, ms)
  return tonumber(redis.call('HGET', key('tenant_usage_of', tenant, day_of(ms)), 'spent_tokens')) or 0
end

-- Adds to the sums what a report has more than was booked of this turn before: a report holds all
-- that one start of a gateway metered of it, so one that comes twice, late or from another worker
-- changes nothing. `report`: {instance, {model = {figures}}}; one from before a figure was counted
-- ends before it. Returns the turn's spent tokens.
local function book(turn, report)
  local lane = redis.call('HGET', turn.key, 'lane')
  local conversation = key('conversation', turn.conversation)
  local sums = {key('tenant_usage', turn.tenant),
    key('tenant_usage_of', turn.tenant, day_of(now_ms()))}
  if lane ~= 'side' then sums[3] = key('conversation_usage', turn.conversation) end
  local held = redis.call('HGET', turn.key, 'metered')
  local booked = held and cjson.decode(held) or {}
  local before = booked[report[1]] or {}
  local is_more = false
  for model, told in pairs(report[2]) do
    local had = before[model] or {}
    for i, name in ipairs(USAGE_FIGURES) do
      had[i] = had[i] or 0
      local more = (told[i] or 0) - had[i]
      if more > 0 then
        is_more, had[i] = true, told[i]
        for _, sum in ipairs(sums) do
          redis.call('HINCRBY', sum, name, int(more))
          redis.call('HINCRBY', sum, model .. ':' .. name, int(more))
          if IS_SPENT[name] then redis.call('HINCRBY', sum, 'spent_tokens', int(more)) end
        end
      end
    end
    before[model] = had
  end
  booked[report[1]] = before
  local total, spent = {}, 0
  for _, models in pairs(booked) do
    for _, figures in pairs(models) do
      for i, name in ipairs(USAGE_FIGURES) do
        local figure = figures[i] or 0
        total[i] = (total[i] or 0) + figure
        if IS_SPENT[name] then spent = spent + figure end
      end
    end
  end
  if is_more then
    redis.call('PEXPIRE', sums[1], USAGE_LIFE_MS)
    redis.call('PEXPIRE', sums[2], USAGE_DAY_LIFE_MS)
    local left = redis.call('PTTL', conversation)
    if sums[3] and left > 0 then redis.call('PEXPIRE', sums[3], left) end
    local usage = {}
    for i, name in ipairs(USAGE_FIGURES) do
      if name ~= 'calls' then usage[#usage + 1] = string.format('"%s":%s', name, int(total[i])) end
    end
    redis.call('HSET', turn.key, 'metered', cjson.encode(booked),
      'usage', '{' .. table.concat(usage, ',') .. '}')
  end
  return spent
end
