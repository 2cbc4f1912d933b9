-- Read structure and metadata of some checkpoints of one namespace, newest first.
-- KEYS: 1 thread
-- ARGV: 1 namespace  2 only ids below this one, or ''  3 how many at most
-- Returns a flat list of id, entry, extra or ''
local thread, ns = KEYS[1], ARGV[1]
local to = ARGV[2] == '' and '(' .. ns .. '\1' or '(' .. ns .. '\0' .. ARGV[2]
local reply = {}
for _, member in ipairs(redis.call('ZREVRANGEBYLEX', thread .. ':checkpoints', to, '[' .. ns .. '\0', 'LIMIT', 0,
  ARGV[3])) do
  local id = string.sub(member, #ns + 2)
  reply[#reply + 1] = id
  reply[#reply + 1] = redis.call('HGET', thread .. ':checkpoint', ns .. '|' .. id)
  reply[#reply + 1] = redis.call('HGET', thread .. ':checkpoint', ':extra:' .. ns .. '|' .. id) or ''
end
return reply
