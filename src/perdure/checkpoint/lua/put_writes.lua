-- Store what one task wrote, against the checkpoint it ran on.
-- KEYS: 1 thread
-- ARGV: 1 fence or ''  2 namespace  3 checkpoint id  4.. field, value, '1' if it replaces one that is there
local thread, ns, id = KEYS[1], ARGV[2], ARGV[3]
local refused = guard(thread, ARGV[1])
if refused then
  return refused
end
local key = writes_key(thread, ns, id)
for i = 4, #ARGV, 3 do
  redis.call(ARGV[i + 2] == '1' and 'HSET' or 'HSETNX', key, ARGV[i], ARGV[i + 1])
end
redis.call('ZADD', thread .. ':checkpoints', 0, ns .. '\1' .. id)
return 1
