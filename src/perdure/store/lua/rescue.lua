-- Look at a thread and mend it: passed deadlines, an expired lease, a task that waits for a worker.
-- FLAGS: allow-oom
-- KEYS: 1 thread
-- ARGV: 1 time after which a waiting task is rung for again (ms)
-- Returns { bell or false, time of the next look (ms) or -1 }
local thread = KEYS[1]
local now = now_ms()
local ring = false
local rings = 0
for _, late in ipairs(redis.call('ZRANGEBYSCORE', thread .. ':deadlines', '-inf', now, 'LIMIT', 0, 100)) do
  local _, _, following = end_task(thread, late, 'expire', { reason = 'deadline', error = cjson.encode({
    type = 'DeadlineExceeded', message = "the task's deadline passed before it ended" }) }, now)
  ring = following or ring
  redis.call('ZREM', thread .. ':deadlines', late)
end
local r = redis.call('HMGET', thread, 'owner', 'fence', 'until', 'ttl')
if r[1] and r[1] ~= '' then
  if r[2] and r[2] ~= '' then
    if ms(r[3]) <= now and uptime_ms() >= ms(r[4]) then
      ring = lose(thread, r[1], 'lease_expired', now)
    end
  else
    local waiting = bell_for_owner(thread, now)
    if waiting then
      local lost = redis.call('HGET', thread, 'lost')
      ring = { waiting[1], waiting[2], lost and lost ~= '' and 'recovery' or waiting[3] }
      rings = redis.call('HINCRBY', thread, 'rings', 1)
    end
  end
end
-- Behind a long backlog a task waits although its ring was not lost, so each further ring waits twice as long.
return { ring, next_look(thread, now, tonumber(ARGV[1]) * 2 ^ math.min(rings, 6)) }
