-- Events after a cursor.
-- FLAGS: no-writes
-- KEYS: 1 thread
-- ARGV: 1 seq  2 limit
-- Returns { epoch, first seq kept, last seq, entries }
local thread = KEYS[1]
local r = redis.call('HMGET', thread, 'epoch', 'seq')
if not r[1] then
  return refuse('NOTFOUND', 'thread')
end
local last = tonumber(r[2] or '0')
local stream = thread .. ':events'
local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)
local first = oldest[1] and tonumber(string.match(oldest[1][1], '^(%d+)')) or last + 1
return { r[1], first, last, redis.call('XRANGE', stream, '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2]) }
