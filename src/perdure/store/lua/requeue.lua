-- Revive a failed or dead task, while the thread's head is still its own.
-- KEYS: 1 thread
-- ARGV: 1 task id
-- Returns the bell
local thread, id = KEYS[1], ARGV[1]
local status = redis.call('HGET', thread .. ':task:' .. id, 'status')
if not status then
  return refuse('NOTFOUND', 'task')
end
if not TRANSITIONS[status].requeue then
  return refuse('CONFLICT', 'status ' .. status)
end
local r = redis.call('HMGET', thread, 'owner', 'head_task')
if (r[1] and r[1] ~= '') or (r[2] and r[2] ~= '' and r[2] ~= id) then
  return refuse('CONFLICT', 'thread_moved_on ' .. status)
end
redis.call('HSET', thread, 'owner', id)
transition(thread, id, 'requeue', { losses = 0, suspicions = 0, finished = '', reason = 'requeued', not_before = '' }, now_ms())
return bell(thread, id)
