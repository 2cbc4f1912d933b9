-- Read a page of the items under a prefix, in the order of their names. Entries of expired items are cleaned away.
-- KEYS: 1 index
-- ARGV: 1 from (as ZRANGEBYLEX takes it)  2 to  3 how many at most  4 '1' with values  5 '1' with vectors
-- Returns { the name to go on after or '', { name, value or '', vectors (flat path, bytes) }.. }
local names = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local reply = { #names == tonumber(ARGV[3]) and names[#names] or '' }
for _, name in ipairs(names) do
  local key = item_key(KEYS[1], name)
  if redis.call('EXISTS', key) == 0 then
    redis.call('ZREM', KEYS[1], name)
  else
    local vectors = {}
    if ARGV[5] == '1' then
      local flat = redis.call('HGETALL', key)
      for i = 1, #flat, 2 do
        if string.sub(flat[i], 1, 7) == 'vector:' then
          vectors[#vectors + 1] = string.sub(flat[i], 8)
          vectors[#vectors + 1] = flat[i + 1]
        end
      end
    end
    reply[#reply + 1] = { name, ARGV[4] == '1' and redis.call('HGET', key, 'value') or '', vectors }
  end
end
return reply
