-- Forget the checkpoints that some runs made, with their writes and the values nobody else needs.
-- KEYS: 1 thread
-- ARGV: 1 fence or ''  2.. run ids
local thread = KEYS[1]
local refused = guard(thread, ARGV[1])
if refused then
  return refused
end
local runs = {}
for i = 2, #ARGV do
  runs[ARGV[i]] = true
end
local count = 0
for _, member in ipairs(redis.call('ZRANGE', thread .. ':checkpoints', 0, -1)) do
  local ns, kind, id = split_member(member)
  if kind == '\0' then
    local run = metadata_of(redis.call('HGET', thread .. ':checkpoint', ns .. '|' .. id)).run_id
    if run and runs[run] then
      forget_checkpoint(thread, ns, id)
      count = count + 1
    end
  end
end
if count > 0 then
  mend_heads(thread)
  sweep(thread)
end
return count
