-- What the saver's verbs share. The keys of a thread's checkpoints, all derived from its record's key:
--   <thread>:checkpoint            hash   `<ns>|<id>` -> structure (JSON), newline, metadata (JSON)
--                                         `:extra:<ns>|<id>` -> what is not plain JSON of both, serialized
--                                         `:head:<ns>` -> the newest id of a namespace (the root's is in the record)
--   <thread>:checkpoints           zset   by name: `<ns>\0<id>` a checkpoint, `<ns>\1<id>` a hash of writes
--   <thread>:blobs                 hash   `<ns>|<channel>|<version>` -> type, newline, bytes
--   <thread>:writes:<ns>|<id>      hash   `<task>|<index>` -> ["path","channel","type"], newline, bytes; with a fourth
--                                         element the bytes are those of the blob that it names

-- An error reply if this caller may not write to the thread now, otherwise nil.
local function guard(thread, fence)
  if fence ~= '' then
    if not holds(thread, fence) then
      return redis.error_reply(LOST)
    end
    return nil
  end
  local held = redis.call('HGET', thread, 'fence')
  if held and held ~= '' then
    return refuse('CONFLICT', 'thread_busy')
  end
  return nil
end

local ESCAPES = { ['%'] = '%25', ['|'] = '%7C' }

-- The same as blob_field() in codec.py.
local function blob_field(ns, channel, version)
  local text
  if type(version) == 'number' then
    text = string.format('#%.17g', version)
  else
    text = string.gsub(version, '[%%|]', ESCAPES)
  end
  return ns .. '|' .. string.gsub(channel, '[%%|]', ESCAPES) .. '|' .. text
end

local function structure_of(entry)
  return cjson.decode(string.sub(entry, 1, string.find(entry, '\n', 1, true) - 1))
end

local function metadata_of(entry)
  return cjson.decode(string.sub(entry, string.find(entry, '\n', 1, true) + 1))
end

local function writes_key(thread, ns, id)
  return thread .. ':writes:' .. ns .. '|' .. id
end

-- Split a member of the index into namespace, kind ('\0' checkpoint, '\1' writes) and id.
local function split_member(member)
  local at = string.find(member, '[%z\1]')
  return string.sub(member, 1, at - 1), string.sub(member, at, at), string.sub(member, at + 1)
end

local function newest_by_name(thread, ns)
  local found = redis.call('ZREVRANGEBYLEX', thread .. ':checkpoints', '(' .. ns .. '\1', '[' .. ns .. '\0',
    'LIMIT', 0, 1)
  return found[1] and string.sub(found[1], #ns + 2) or nil
end

-- The id of the checkpoint that a namespace stands at, or nil. It is the one put last and not the one with the
-- highest id, because ids carry the clock of the host that made them and hosts disagree.
local function head_of(thread, ns)
  local head
  if ns == '' then
    head = redis.call('HGET', thread, 'head')
    if head == '' then
      return nil -- The thread was rolled back to before its first checkpoint.
    end
  else
    head = redis.call('HGET', thread .. ':checkpoint', ':head:' .. ns)
  end
  if head and redis.call('HEXISTS', thread .. ':checkpoint', ns .. '|' .. head) == 1 then
    return head
  end
  return newest_by_name(thread, ns)
end

local function set_head(thread, ns, id)
  if ns == '' then
    redis.call('HSET', thread, 'head', id)
  else
    redis.call('HSET', thread .. ':checkpoint', ':head:' .. ns, id)
  end
end

-- The header of a stored write, decoded, and where its bytes begin.
local function write_header(value)
  local at = string.find(value, '\n', 1, true)
  return cjson.decode(string.sub(value, 1, at - 1)), at + 1
end

-- The stored writes of a checkpoint as a flat list of field and value, those that point to a blob with its bytes.
local function writes_of(thread, ns, id)
  local flat = redis.call('HGETALL', writes_key(thread, ns, id))
  for i = 2, #flat, 2 do
    local value = flat[i]
    if string.sub(value, -1) == '\n' then
      local header, from = write_header(value)
      if header[4] and from > #value then
        local blob = redis.call('HGET', thread .. ':blobs', header[4])
        if blob then
          flat[i] = value .. string.sub(blob, string.find(blob, '\n', 1, true) + 1)
        end
      end
    end
  end
  return flat
end

local function forget_checkpoint(thread, ns, id)
  redis.call('HDEL', thread .. ':checkpoint', ns .. '|' .. id, ':extra:' .. ns .. '|' .. id)
  redis.call('UNLINK', writes_key(thread, ns, id))
  redis.call('ZREM', thread .. ':checkpoints', ns .. '\0' .. id, ns .. '\1' .. id)
end

-- Point the heads of all namespaces at what is left.
local function mend_heads(thread)
  for _, field in ipairs(redis.call('HKEYS', thread .. ':checkpoint')) do
    if string.sub(field, 1, 6) == ':head:' then
      local ns = string.sub(field, 7)
      local head = head_of(thread, ns)
      if head then
        set_head(thread, ns, head)
      else
        redis.call('HDEL', thread .. ':checkpoint', field)
      end
    end
  end
  local head = redis.call('HGET', thread, 'head')
  if head and head ~= '' and redis.call('HEXISTS', thread .. ':checkpoint', '|' .. head) == 0 then
    local left = newest_by_name(thread, '')
    if left then
      redis.call('HSET', thread, 'head', left)
    else
      redis.call('HDEL', thread, 'head')
    end
    redis.call('HDEL', thread, 'head_task', 'head_seq')
  end
end

-- Drop the blobs to which no checkpoint and no write points any more.
local function sweep(thread)
  local used = {}
  for _, member in ipairs(redis.call('ZRANGE', thread .. ':checkpoints', 0, -1)) do
    local ns, kind, id = split_member(member)
    if kind == '\0' then
      local versions = structure_of(redis.call('HGET', thread .. ':checkpoint', ns .. '|' .. id)).channel_versions
      for channel, version in pairs(versions) do
        used[blob_field(ns, channel, version)] = true
      end
    else
      local key = writes_key(thread, ns, id)
      for _, field in ipairs(redis.call('HKEYS', key)) do
        if redis.call('HSTRLEN', key, field) < 65536 then
          local value = redis.call('HGET', key, field)
          if string.sub(value, -1) == '\n' then
            local header = write_header(value)
            if header[4] then
              used[header[4]] = true
            end
          end
        end
      end
    end
  end
  for _, field in ipairs(redis.call('HKEYS', thread .. ':blobs')) do
    if not used[field] then
      redis.call('HDEL', thread .. ':blobs', field)
    end
  end
end

-- After a rollback the checkpoints made since the one rolled back to are dead, in all namespaces.
local function collect_rolled_back(thread)
  local base = redis.call('HGET', thread, 'rolled_back')
  if not base then
    return
  end
  redis.call('HDEL', thread, 'rolled_back')
  local cursor = '-'
  while true do
    local first = redis.call('ZRANGEBYLEX', thread .. ':checkpoints', cursor, '+', 'LIMIT', 0, 1)[1]
    if not first then
      break
    end
    local ns = split_member(first)
    for _, kind in ipairs({ '\0', '\1' }) do
      local from = base == '' and '[' .. ns .. kind or '(' .. ns .. kind .. base
      local to = '(' .. ns .. (kind == '\0' and '\1' or '\2')
      for _, member in ipairs(redis.call('ZRANGEBYLEX', thread .. ':checkpoints', from, to)) do
        forget_checkpoint(thread, ns, string.sub(member, #ns + 2))
      end
    end
    cursor = '(' .. ns .. '\2'
  end
  mend_heads(thread)
  sweep(thread)
end

-- The record's fields that reading a thread needs, for a thread that no task has made.
local function ensure_record(thread, epoch, now)
  redis.call('HSETNX', thread, 'epoch', epoch)
  redis.call('HSETNX', thread, 'created', now)
  redis.call('HSET', thread, 'updated', now)
end
