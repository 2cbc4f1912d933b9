-- What the verbs of the long-term store share. All keys of one root (the first label of a namespace) share a slot:
--   store:{<root>}:index          zset  by name: `<label>/<label>/|<key>` of every item, escaped; may hold dead ones
--   store:{<root>}:item:<name>    hash  value (JSON), created, updated, ttl (all ms), vector:<path> (float32)

-- The key of an item from the key of the index, which is always KEYS[1].
local function item_key(index, name)
  return string.sub(index, 1, -6) .. 'item:' .. name
end

-- Start an item's time to live anew, if it has one.
local function refresh(key)
  local ttl = redis.call('HGET', key, 'ttl')
  if ttl then
    redis.call('PEXPIRE', key, ttl)
  end
end
