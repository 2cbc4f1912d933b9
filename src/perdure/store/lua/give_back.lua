-- Put a running task back into the queue: drain, hand-over, retry.
-- FLAGS: allow-oom
-- KEYS: 1 thread
-- ARGV: 1 fence  2 task id  3 reason  4 new tier or ''  5 not before (ms or '')  6 error (json or '')  7 whether a step was cut off
-- Returns the bell
local thread, id = KEYS[1], ARGV[2]
if not holds(thread, ARGV[1]) then
  return redis.error_reply(LOST)
end
local lost = ''
if ARGV[7] == '1' then
  local f = redis.call('HMGET', thread .. ':task:' .. id, 'worker', 'attempt')
  lost = cjson.encode({ f[1], tonumber(f[2]) })
end
redis.call('HSET', thread, 'fence', '', 'keep', ARGV[4] ~= '' and '1' or '', 'lost', lost)
local changes = { reason = ARGV[3], not_before = ARGV[5] }
if ARGV[4] ~= '' then
  changes.tier = ARGV[4]
end
if ARGV[6] ~= '' then
  changes.error = ARGV[6]
end
local task, status = transition(thread, id, 'give_back', changes, now_ms())
return task and bell(thread, id) or refuse('CONFLICT', 'status ' .. status)
