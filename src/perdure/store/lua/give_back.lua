-- Put a running task back into the queue: drain, hand-over, retry.
-- KEYS: 1 thread
-- ARGV: 1 fence  2 task id  3 reason  4 new tier or ''  5 not before (ms or '')  6 error (json or '')
-- Returns the bell
local thread, id = KEYS[1], ARGV[2]
if not holds(thread, ARGV[1]) then
  return redis.error_reply(LOST)
end
redis.call('HSET', thread, 'fence', '', 'keep', ARGV[4] ~= '' and '1' or '')
local changes = { reason = ARGV[3], not_before = ARGV[5] }
if ARGV[4] ~= '' then
  changes.tier = ARGV[4]
end
if ARGV[6] ~= '' then
  changes.error = ARGV[6]
end
local task, status = transition(thread, id, 'give_back', changes, now_ms())
return task and bell(thread, id) or refuse('CONFLICT', 'status ' .. status)
