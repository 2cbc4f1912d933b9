-- Forget all checkpoints of a thread. Its record stays.
-- KEYS: 1 thread
-- ARGV: 1 fence or ''
local thread = KEYS[1]
local refused = guard(thread, ARGV[1])
if refused then
  return refused
end
for _, member in ipairs(redis.call('ZRANGE', thread .. ':checkpoints', 0, -1)) do
  local ns, kind, id = split_member(member)
  if kind == '\1' then
    redis.call('UNLINK', writes_key(thread, ns, id))
  end
end
redis.call('UNLINK', thread .. ':checkpoint', thread .. ':checkpoints', thread .. ':blobs')
redis.call('HDEL', thread, 'head', 'head_task', 'head_seq', 'rolled_back')
return 1
