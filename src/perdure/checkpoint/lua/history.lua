-- Walk the ancestors of a checkpoint for channels whose value is made of writes, each until a stored value is met.
-- KEYS: 1 thread
-- ARGV: 1 namespace  2 checkpoint id, '' for the newest  3 '1' if the walk begins at it, '0' if at its parent
--       4 how many ancestors at most  5.. channels
-- Returns { the id to go on from or '', { id, seeds (flat channel, blob), writes (flat field, value) }.. }
local thread, ns = KEYS[1], ARGV[1]
local remaining, left = {}, 0
for i = 5, #ARGV do
  remaining[ARGV[i]] = true
  left = left + 1
end
local id = ARGV[2] == '' and head_of(thread, ns) or ARGV[2]
local entry = id and redis.call('HGET', thread .. ':checkpoint', ns .. '|' .. id)
if not entry then
  return { '' }
end
local reply = { '' }
local structure = structure_of(entry)
local skip = ARGV[3] == '0'
for _ = 0, tonumber(ARGV[4]) do
  if skip then
    skip = false
  else
    local seeds, writes = {}, {}
    local flat = writes_of(thread, ns, id)
    for i = 1, #flat, 2 do
      if remaining[write_header(flat[i + 1])[2]] then
        writes[#writes + 1] = flat[i]
        writes[#writes + 1] = flat[i + 1]
      end
    end
    for channel in pairs(remaining) do
      local version = structure.channel_versions[channel]
      local blob = version and redis.call('HGET', thread .. ':blobs', blob_field(ns, channel, version))
      if blob then
        seeds[#seeds + 1] = channel
        seeds[#seeds + 1] = blob
      end
    end
    for i = 1, #seeds, 2 do
      remaining[seeds[i]] = nil
      left = left - 1
    end
    reply[#reply + 1] = { id, seeds, writes }
  end
  id = structure.parent_id
  if left == 0 or type(id) ~= 'string' then
    return reply
  end
  entry = redis.call('HGET', thread .. ':checkpoint', ns .. '|' .. id)
  if not entry then
    return reply
  end
  structure = structure_of(entry)
end
reply[1] = id
return reply
