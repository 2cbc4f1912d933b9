-- The namespaces of a root that have a living item, as `<label>/<label>/`.
-- KEYS: 1 index
local reply = {}
local cursor = '-'
while true do
  local name = redis.call('ZRANGEBYLEX', KEYS[1], cursor, '+', 'LIMIT', 0, 1)[1]
  if not name then
    return reply
  end
  local namespace = string.sub(name, 1, string.find(name, '|', 1, true) - 1)
  if redis.call('EXISTS', item_key(KEYS[1], name)) == 1 then
    reply[#reply + 1] = namespace
    cursor = '[' .. namespace .. '}' -- '}' follows '|', so this is behind all items of the namespace.
  else
    redis.call('ZREM', KEYS[1], name)
    cursor = '(' .. name
  end
end
