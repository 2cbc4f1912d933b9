-- Forget an ended task and its artifacts.
-- FLAGS: allow-oom
-- KEYS: 1 thread
-- ARGV: 1 task id
local thread, id = KEYS[1], ARGV[1]
local status = redis.call('HGET', thread .. ':task:' .. id, 'status')
if not status then
  return refuse('NOTFOUND', 'task')
end
if LIVE[status] then
  return refuse('CONFLICT', 'status ' .. status)
end
redis.call('UNLINK', thread .. ':task:' .. id, thread .. ':artifacts:' .. id)
redis.call('ZREM', thread .. ':tasks', id)
return 1
