-- Number and store events.
-- KEYS: 1 thread
-- ARGV: 1 fence  2 task id  3 place of the first of them among all that this holder appends, or 0
--       4… method, tag, namespace, body of each
-- Returns the last seq
local thread, first = KEYS[1], tonumber(ARGV[3])
local r = redis.call('HMGET', thread, 'fence', 'said', 'seq')
if r[1] ~= ARGV[1] then
  return redis.error_reply(LOST)
end
local from = 4
if first > 0 then
  local known = math.max(0, ms(r[2]) - (first - 1))
  local last = first - 1 + (#ARGV - 3) / 4
  if last <= ms(r[2]) then
    return ms(r[3])
  end
  redis.call('HSET', thread, 'said', last)
  from = 4 + known * 4
end
return append(thread, ARGV[2], ARGV, from)
