-- Set the time of the next look at a thread, unless somebody else has set it since.
-- FLAGS: allow-oom
-- KEYS: 1 live index
-- ARGV: 1 thread's address  2 score that was read  3 next look (ms) or -1
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) ~= tonumber(ARGV[2]) then
  return 0
end
if ARGV[3] == '-1' then
  return redis.call('ZREM', KEYS[1], ARGV[1])
end
return redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
