-- Make an empty thread, unless it is there.
-- KEYS: 1 thread
-- ARGV: 1 epoch  2 metadata (json)  3 graph or ''
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local now = now_ms()
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'created', now, 'updated', now, 'metadata', ARGV[2], 'graph', ARGV[3])
return 1
