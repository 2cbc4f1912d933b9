-- Number and store events.
-- KEYS: 1 thread
-- ARGV: 1 fence  2 task id  3 number of this batch under this lease, or 0  4… method, tag, namespace, body of each
-- Returns the last seq
local thread = KEYS[1]
local r = redis.call('HMGET', thread, 'fence', 'batch', 'seq')
if r[1] ~= ARGV[1] then
  return redis.error_reply(LOST)
end
if ARGV[3] ~= '0' then
  if tonumber(ARGV[3]) <= ms(r[2]) then
    return ms(r[3])
  end
  redis.call('HSET', thread, 'batch', ARGV[3])
end
return append(thread, ARGV[2], ARGV, 4)
