-- End a task with its result or its error.
-- FLAGS: allow-oom
-- KEYS: 1 thread
-- ARGV: 1 fence  2 task id  3 verb (succeed, fail)  4 reason  5 result (json or '')  6 error (json or '')
--       7… events that come before the terminal one
-- Returns { task hash as a flat list, worker or false, bell or false }
local thread, id = KEYS[1], ARGV[2]
if not holds(thread, ARGV[1]) then
  return redis.error_reply(LOST)
end
append(thread, id, ARGV, 7)
local changes = { reason = ARGV[4], error = ARGV[6] }
if ARGV[5] ~= '' then
  changes.result = ARGV[5]
end
local task, worker, following = end_task(thread, id, ARGV[3], changes, now_ms())
if not task then
  return refuse('CONFLICT', 'status ' .. worker)
end
return { redis.call('HGETALL', thread .. ':task:' .. id), worker, following }
