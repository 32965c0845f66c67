-- Files' records: what a tenant keeps is counted from a file's first byte until it is to go.

local function move_file(name, new)
  local old = redis.call('HGET', name, 'state')
  assert(FILE_NEXT[old][new], 'file: ' .. old .. ' -> ' .. new .. ' is not a step')
  redis.call('HSET', name, 'state', new)
end

local function count_files(tenant, files, bytes)
  local filed = key('tenant_filed', tenant)
  if bytes ~= 0 then redis.call('HINCRBY', filed, 'bytes', int(bytes)) end
  if files ~= 0 and redis.call('HINCRBY', filed, 'files', int(files)) <= 0 then
    redis.call('DEL', filed)
  end
end

-- Whether that many bytes more are more than a tenant may keep.
local function is_too_much(tenant, more, bytes_max)
  if more <= 0 or bytes_max == 0 then return false end
  local kept = tonumber(redis.call('HGET', key('tenant_filed', tenant), 'bytes')) or 0
  return kept + more > bytes_max
end

-- From here on nobody finds the file. Its record stays until its bytes are gone.
local function let_file_go(file, due_ms)
  local name = key('file', file)
  local record = redis.call('HMGET', name, 'tenant', 'store', 'state', 'held', 'purpose')
  local tenant, store, state, purpose = record[1], record[2], record[3], record[5]
  if not state then return end
  if state ~= 'deleting' then
    move_file(name, 'deleting')
    redis.call('HSET', name, 'held', '0')
    if purpose then
      redis.call('ZREM', key('tenant_files', tenant, 'all'), file)
      redis.call('ZREM', key('tenant_files', tenant, purpose), file)
    end
    count_files(tenant, -1, -(tonumber(record[4]) or 0))
  end
  redis.call('ZADD', key('files_due', store), int(due_ms), file)
end
