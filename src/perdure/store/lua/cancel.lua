-- End a live task as cancelled.
-- FLAGS: allow-oom
-- KEYS: 1 thread
-- ARGV: 1 task id  2 reason
-- Returns { changed (1 or 0), task hash as a flat list, worker or false, bell or false }
local thread, id = KEYS[1], ARGV[1]
local task, worker, following = end_task(thread, id, 'cancel', { reason = ARGV[2] }, now_ms())
if task then
  return { 1, redis.call('HGETALL', thread .. ':task:' .. id), worker, following }
end
if worker == 'unknown' then
  return refuse('NOTFOUND', 'task')
end
return { 0, redis.call('HGETALL', thread .. ':task:' .. id), false, false }
