-- Keep of each namespace the checkpoint it stands at, and the ancestors that its delta channels are made of.
-- KEYS: 1 thread
-- ARGV: 1 fence or ''
local thread = KEYS[1]
local refused = guard(thread, ARGV[1])
if refused then
  return refused
end
collect_rolled_back(thread)
local members = redis.call('ZRANGE', thread .. ':checkpoints', 0, -1)
local keep, done = {}, {}
for _, member in ipairs(members) do
  local ns = split_member(member)
  if not done[ns] then
    done[ns] = true
    local id = head_of(thread, ns)
    local remaining = {}
    local entry = id and redis.call('HGET', thread .. ':checkpoint', ns .. '|' .. id)
    if entry then
      keep[ns .. '\0' .. id] = true
      -- LangGraph counts the steps since a channel's last snapshot for exactly the delta channels that have none here.
      for channel in pairs(metadata_of(entry).counters_since_delta_snapshot or {}) do
        remaining[channel] = true
      end
    end
    local structure = entry and structure_of(entry)
    while next(remaining) and type(structure.parent_id) == 'string' do
      local parent = structure.parent_id
      entry = redis.call('HGET', thread .. ':checkpoint', ns .. '|' .. parent)
      if not entry then
        break
      end
      keep[ns .. '\0' .. parent] = true
      structure = structure_of(entry)
      local found = {}
      for channel in pairs(remaining) do
        local version = structure.channel_versions[channel]
        if version and redis.call('HEXISTS', thread .. ':blobs', blob_field(ns, channel, version)) == 1 then
          found[#found + 1] = channel
        end
      end
      for _, channel in ipairs(found) do
        remaining[channel] = nil
      end
    end
  end
end
local count = 0
for _, member in ipairs(members) do
  local ns, _, id = split_member(member)
  if not keep[ns .. '\0' .. id] then
    forget_checkpoint(thread, ns, id)
    count = count + 1
  end
end
sweep(thread)
return count
