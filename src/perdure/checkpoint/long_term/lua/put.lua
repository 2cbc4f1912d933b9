-- Store an item, or forget it.
-- KEYS: 1 index
-- ARGV: 1 name  2 value (JSON), '' to forget it  3 time to live (ms) or ''  4.. path, vector
local key = item_key(KEYS[1], ARGV[1])
if ARGV[2] == '' then
  redis.call('UNLINK', key)
  redis.call('ZREM', KEYS[1], ARGV[1])
  return 0
end
local now = now_ms()
local created = redis.call('HGET', key, 'created') or now
redis.call('DEL', key)
redis.call('HSET', key, 'value', ARGV[2], 'created', created, 'updated', now)
for i = 4, #ARGV, 2 do
  redis.call('HSET', key, 'vector:' .. ARGV[i], ARGV[i + 1])
end
if ARGV[3] ~= '' then
  redis.call('HSET', key, 'ttl', ARGV[3])
  redis.call('PEXPIRE', key, ARGV[3])
end
redis.call('ZADD', KEYS[1], 0, ARGV[1])
return 1
