-- Let a task wait for answers, holding no worker. It keeps its thread.
-- KEYS: 1 thread
-- ARGV: 1 fence  2 task id  3 interrupts (json)  4 checkpoint id or ''  5… events that come first
local thread, id = KEYS[1], ARGV[2]
if not holds(thread, ARGV[1]) then
  return redis.error_reply(LOST)
end
append(thread, id, ARGV, 5)
redis.call('HSET', thread, 'fence', '')
local changes = { interrupts = ARGV[3], update = '', ['goto'] = '[]' }
if ARGV[4] ~= '' then
  changes.checkpoint_id = ARGV[4]
end
local task, status = transition(thread, id, 'pause', changes, now_ms())
return task and 1 or refuse('CONFLICT', 'status ' .. status)
