-- Read items by name.
-- KEYS: 1 index
-- ARGV: 1 '1' to start their time to live anew  2.. names
-- Returns for each false, or { value, created, updated }
local reply = {}
for i = 2, #ARGV do
  local key = item_key(KEYS[1], ARGV[i])
  local item = redis.call('HMGET', key, 'value', 'created', 'updated')
  if item[1] then
    if ARGV[1] == '1' then
      refresh(key)
    end
    reply[#reply + 1] = item
  else
    reply[#reply + 1] = false
  end
end
return reply
