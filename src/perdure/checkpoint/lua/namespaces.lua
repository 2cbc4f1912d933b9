-- The namespaces in which a thread has checkpoints, the root ('') first.
-- KEYS: 1 thread
local index = KEYS[1] .. ':checkpoints'
local reply = {}
local cursor = '-'
while true do
  local first = redis.call('ZRANGEBYLEX', index, cursor, '+', 'LIMIT', 0, 1)[1]
  if not first then
    return reply
  end
  local ns = split_member(first)
  if redis.call('ZLEXCOUNT', index, '[' .. ns .. '\0', '(' .. ns .. '\1') > 0 then
    reply[#reply + 1] = ns
  end
  cursor = '(' .. ns .. '\2'
end
