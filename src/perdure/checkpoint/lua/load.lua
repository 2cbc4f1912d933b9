-- Read checkpoints with all their values and writes.
-- KEYS: 1 thread
-- ARGV: 1 namespace  2.. checkpoint ids; none: the one that the namespace stands at
-- Returns { { id, entry, extra or '', writes (flat field, value) }.., blobs (flat field, blob; each once) }
local thread, ns = KEYS[1], ARGV[1]
local ids = {}
for i = 2, #ARGV do
  ids[#ids + 1] = ARGV[i]
end
if #ids == 0 then
  ids[1] = head_of(thread, ns)
end
local reply, blobs, seen = {}, {}, {}
for _, id in ipairs(ids) do
  local entry = redis.call('HGET', thread .. ':checkpoint', ns .. '|' .. id)
  if entry then
    reply[#reply + 1] = { id, entry, redis.call('HGET', thread .. ':checkpoint', ':extra:' .. ns .. '|' .. id) or '',
      writes_of(thread, ns, id) }
    for channel, version in pairs(structure_of(entry).channel_versions) do
      local field = blob_field(ns, channel, version)
      if not seen[field] then
        seen[field] = true
        local blob = redis.call('HGET', thread .. ':blobs', field)
        if blob then
          blobs[#blobs + 1] = field
          blobs[#blobs + 1] = blob
        end
      end
    end
  end
end
reply[#reply + 1] = blobs
return reply
