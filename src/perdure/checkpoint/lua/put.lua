-- Store a checkpoint with the values that are new in it, and let its namespace stand at it.
-- KEYS: 1 thread
-- ARGV: 1 fence or ''  2 namespace  3 checkpoint id  4 parent's id or ''  5 structure, newline, metadata
--       6 what is not plain JSON, or ''  7 task id or ''  8 step  9 epoch for a new thread  10.. blob field, blob
local thread, ns, id, parent = KEYS[1], ARGV[2], ARGV[3], ARGV[4]
local refused = guard(thread, ARGV[1])
if refused then
  return refused
end
collect_rolled_back(thread)
local now = now_ms()
local big = {}
local has_big = false
for i = 10, #ARGV, 2 do
  redis.call('HSET', thread .. ':blobs', ARGV[i], ARGV[i + 1])
  if #ARGV[i + 1] >= 1024 then
    big[ARGV[i + 1]] = ARGV[i]
    has_big = true
  end
end
if has_big and parent ~= '' then
  -- A value that a task wrote and the channel took over as it is need not be stored twice: the write points to it.
  local key = writes_key(thread, ns, parent)
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if redis.call('HSTRLEN', key, field) >= 1024 then
      local value = redis.call('HGET', key, field)
      local header, from = write_header(value)
      local blob = big[header[3] .. '\n' .. string.sub(value, from)]
      if blob then
        redis.call('HSET', key, field, string.sub(value, 1, from - 3) .. ',' .. json_string(blob) .. ']\n')
      end
    end
  end
end
redis.call('HSET', thread .. ':checkpoint', ns .. '|' .. id, ARGV[5])
if ARGV[6] ~= '' then
  redis.call('HSET', thread .. ':checkpoint', ':extra:' .. ns .. '|' .. id, ARGV[6])
end
redis.call('ZADD', thread .. ':checkpoints', 0, ns .. '\0' .. id)
set_head(thread, ns, id)
if ARGV[1] == '' then
  ensure_record(thread, ARGV[9], now)
  if ns == '' then
    -- The head belongs to no task now, so none of them may be revived from it.
    redis.call('HSET', thread, 'head_task', '-')
  end
elseif ns == '' then
  redis.call('HSET', thread, 'head_task', ARGV[7], 'head_seq', redis.call('HGET', thread, 'seq') or '0')
  redis.call('HSET', thread .. ':task:' .. ARGV[7], 'step', ARGV[8], 'checkpoint_id', id)
end
return id
