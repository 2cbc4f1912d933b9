-- Keep a file that a task made.
-- KEYS: 1 thread
-- ARGV: 1 fence  2 task id  3 name  4 media type  5 data  6 step
-- Returns { artifact id, now, attempt }
local thread, id = KEYS[1], ARGV[2]
if not holds(thread, ARGV[1]) then
  return redis.error_reply(LOST)
end
local key = thread .. ':artifacts:' .. id
local now = now_ms()
local attempt = redis.call('HGET', thread .. ':task:' .. id, 'attempt')
local number = redis.call('HINCRBY', key, 'count', 1)
redis.call('HSET', key, string.format('%d', number), cjson.encode({ name = ARGV[3], media_type = ARGV[4],
  size = #ARGV[5], created_ms = now, step = tonumber(ARGV[6]), attempt = tonumber(attempt) }),
  string.format('%d:data', number), ARGV[5])
return { number, now, tonumber(attempt) }
