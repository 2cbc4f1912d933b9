-- A worker is known to be dead: take its lease on this thread away, if it holds one.
-- FLAGS: allow-oom
-- KEYS: 1 thread
-- ARGV: 1 worker  2 whether this counts as one of the task's attempts (1 or 0)
-- Returns a bell or false
local thread = KEYS[1]
local r = redis.call('HMGET', thread, 'owner', 'fence')
if not r[1] or r[1] == '' or not r[2] or r[2] == '' then
  return false
end
if redis.call('HGET', thread .. ':task:' .. r[1], 'worker') ~= ARGV[1] then
  return false
end
return lose(thread, r[1], 'worker_lost', now_ms(), ARGV[2] == '0')
