-- Number and store events.
-- KEYS: 1 thread
-- ARGV: 1 fence  2 task id  3… method, tag, namespace, body of each event
-- Returns the last seq
if not holds(KEYS[1], ARGV[1]) then
  return redis.error_reply(LOST)
end
return append(KEYS[1], ARGV[2], ARGV, 3)
