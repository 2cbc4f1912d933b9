-- Make copied checkpoints the thread's own, all at once.
-- KEYS: 1 thread
-- ARGV: 1 fence or ''  2 epoch for a new thread  3 the root's head or ''  4 how many index members follow
--       5.. index members, then the checkpoint hash as field, value
local thread, count = KEYS[1], tonumber(ARGV[4])
local refused = guard(thread, ARGV[1])
if refused then
  return refused
end
for i = 5, 4 + count do
  redis.call('ZADD', thread .. ':checkpoints', 0, ARGV[i])
end
for i = 5 + count, #ARGV, 2 do
  redis.call('HSET', thread .. ':checkpoint', ARGV[i], ARGV[i + 1])
end
ensure_record(thread, ARGV[2], now_ms())
if ARGV[3] ~= '' then
  redis.call('HSET', thread, 'head', ARGV[3])
  redis.call('HDEL', thread, 'head_task', 'head_seq')
end
return count
