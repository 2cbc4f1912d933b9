-- Forget a thread with its tasks, events and artifacts. Its checkpoints are the saver's to delete, before this.
-- FLAGS: allow-oom
-- KEYS: 1 thread
-- Returns the ids of its tasks
local thread = KEYS[1]
if redis.call('EXISTS', thread) == 0 then
  return refuse('NOTFOUND', 'thread')
end
local owner = redis.call('HGET', thread, 'owner')
if owner and owner ~= '' then
  return refuse('CONFLICT', 'thread_busy ' .. owner)
end
local ids = redis.call('ZRANGE', thread .. ':tasks', 0, -1)
for _, id in ipairs(ids) do
  redis.call('UNLINK', thread .. ':task:' .. id, thread .. ':artifacts:' .. id)
end
redis.call('UNLINK', thread, thread .. ':tasks', thread .. ':queue', thread .. ':deadlines', thread .. ':events')
return ids
