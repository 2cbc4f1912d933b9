-- Store a task with its first event, as the thread's owner or behind it.
-- KEYS: 1 thread
-- ARGV: 1 look (ms; the live index holds the thread until then)  2 task id  3 spec  4 graph  5 tier  6 priority
--       7 multitask  8 max attempts  9 not before (ms or '')  10 deadline (ms or '')  11 epoch for a new thread
-- Returns { 'created' | 'replayed', now, seq, bell or false, time of the next look, { displaced task, worker, … } }
local thread, id = KEYS[1], ARGV[2]
local key = thread .. ':task:' .. id
local now = now_ms()
if redis.call('EXISTS', key) == 1 then
  return { 'replayed', now, 0, bell_for_owner(thread, now), -1, {} }
end
if now >= tonumber(ARGV[1]) then
  -- The caller was paused since it wrote the index, whose entry may have been cleaned since.
  return refuse('STALE', 'the index entry is too old')
end
local owner = redis.call('HGET', thread, 'owner')
local reply = {}
if owner and owner ~= '' then
  if ARGV[7] == 'reject' then
    return refuse('CONFLICT', 'thread_busy ' .. owner)
  end
  if ARGV[7] == 'interrupt' or ARGV[7] == 'rollback' then
    local live = redis.call('LRANGE', thread .. ':queue', 0, -1)
    live[#live + 1] = owner
    for _, other in ipairs(live) do
      local base = redis.call('HMGET', thread .. ':task:' .. other, 'started', 'base_checkpoint')
      local _, worker = end_task(thread, other, 'supersede', { reason = 'superseded' }, now)
      if ARGV[7] == 'rollback' and base[1] and base[1] ~= '' then
        redis.call('HSET', thread, 'head', base[2] or '', 'head_task', '', 'rolled_back', base[2] or '')
      end
      reply[#reply + 1] = other
      reply[#reply + 1] = worker or ''
    end
    owner = ''
  end
end
if not owner or owner == '' then
  redis.call('HSETNX', thread, 'epoch', ARGV[11])
  redis.call('HSETNX', thread, 'created', now)
  redis.call('HSET', thread, 'owner', id, 'graph', ARGV[4], 'last_task', id, 'updated', now)
else
  redis.call('RPUSH', thread .. ':queue', id)
  redis.call('HSET', thread, 'graph', ARGV[4], 'last_task', id, 'updated', now)
end
local seq = announce(thread, id, { status = 'queued', graph = ARGV[4], tier = ARGV[5], step = '0', attempt = '0' }, now)
redis.call('HSET', key, 'spec', ARGV[3], 'status', 'queued', 'graph', ARGV[4], 'tier', ARGV[5], 'priority', ARGV[6],
  'max_attempts', ARGV[8], 'not_before', ARGV[9], 'first_seq', seq, 'last_seq', seq, 'updated', now, 'created', now)
redis.call('ZADD', thread .. ':tasks', now, id)
if ARGV[10] ~= '' then
  redis.call('ZADD', thread .. ':deadlines', ARGV[10], id)
end
local ring = (not owner or owner == '') and ms(ARGV[9]) <= now and { id, ARGV[5], ARGV[6] } or false
return { 'created', now, seq, ring, next_look(thread, now, tonumber(ARGV[1]) - now), reply }
