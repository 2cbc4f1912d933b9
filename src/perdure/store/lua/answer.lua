-- Keep answers to interrupts, if the task is still as the caller read it; the last one puts it back into the queue.
-- KEYS: 1 thread
-- ARGV: 1 task id  2 revision that was read  3 complete (1 or 0)  4 answers  5 passed  6 update or ''  7 goto
-- Returns a bell, false while answers are missing, or 'again' if the task changed since it was read
local thread, id = KEYS[1], ARGV[1]
local key = thread .. ':task:' .. id
if (redis.call('HGET', key, 'rev') or '0') ~= ARGV[2] then
  return 'again'
end
if ARGV[3] == '0' then
  redis.call('HSET', key, 'answers', ARGV[4], 'passed', ARGV[5], 'update', ARGV[6], 'goto', ARGV[7], 'updated', now_ms())
  redis.call('HINCRBY', key, 'rev', 1)
  return false
end
local task, status = transition(thread, id, 'resume', { answers = ARGV[4], passed = ARGV[5], update = ARGV[6],
  ['goto'] = ARGV[7], interrupts = '[]', reason = 'resumed' }, now_ms())
return task and bell(thread, id) or refuse('CONFLICT', 'status ' .. status)
