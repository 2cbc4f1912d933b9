-- Extend a lease to its full time from now.
-- FLAGS: allow-oom
-- KEYS: 1 thread
-- ARGV: 1 fence  2 lease time (ms)
-- Returns 1, or 0 if the lease is lost
if not holds(KEYS[1], ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'until', now_ms() + tonumber(ARGV[2]))
return 1
