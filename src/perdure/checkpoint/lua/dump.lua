-- What a copy of a thread's checkpoints needs, except the values and writes, which never change once they are there.
-- KEYS: 1 thread
-- Returns { index members, checkpoint hash (flat), the root's head or '' }
local thread = KEYS[1]
return { redis.call('ZRANGE', thread .. ':checkpoints', 0, -1), redis.call('HGETALL', thread .. ':checkpoint'),
  head_of(thread, '') or '' }
