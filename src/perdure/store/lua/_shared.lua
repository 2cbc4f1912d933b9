-- What the store's verbs share. A bell is { task id, tier, class, tenant-free }; the caller knows the thread.

local function ms(value)
  return tonumber(value or '') or 0
end

local WORD = { queued = 'started', running = 'running', interrupted = 'interrupted', succeeded = 'completed',
  failed = 'failed', cancelled = 'failed', dead = 'failed' }

-- The root event that tells a task's status; the same as lifecycle_event() in lifecycle/events.py.
local function announce(thread, id, task, now)
  local live = LIVE[task.status]
  local tag = (task.status == 'failed' or task.status == 'dead') and 'ERROR' or 'NODE'
  local data = '{"event":"' .. WORD[task.status] .. '","status":"' .. task.status .. '","graph_name":'
    .. json_string(task.graph) .. ',"tier":' .. json_string(task.tier)
  if task.reason and task.reason ~= '' then
    data = data .. ',"reason":' .. json_string(task.reason)
  end
  if not live and task.error and task.error ~= '' then
    local error = cjson.decode(task.error)
    data = data .. ',"error":' .. json_string(error.type .. ': ' .. error.message)
  end
  local worker = 'null'
  if task.worker and task.worker ~= '' and (task.status == 'running' or not live) then
    worker = json_string(task.worker)
  end
  local body = '"method":"lifecycle","params":{"namespace":[],"timestamp":' .. string.format('%d', now) .. ',"tag":"'
    .. tag .. '","path":[],"node":null,"agent":null,"task_id":"' .. id .. '","run_id":"' .. id .. '","step":'
    .. task.step .. ',"attempt":' .. task.attempt .. ',"worker":' .. worker .. ',"data":' .. data .. '}}}'
  return append(thread, id, { 'lifecycle', tag, '', body }, 1)
end

-- Carry out `verb` on a task as the table of transitions allows. `changes` are fields to set besides.
-- Returns the task's fields after it, or nil and the status that forbids it.
local function transition(thread, id, verb, changes, now)
  local key = thread .. ':task:' .. id
  local f = redis.call('HMGET', key, 'status', 'graph', 'tier', 'reason', 'error', 'step', 'attempt', 'worker',
    'priority', 'first_seq')
  if not f[1] then
    return nil, 'unknown'
  end
  local after = TRANSITIONS[f[1]][verb]
  if not after then
    return nil, f[1]
  end
  local task = { before = f[1], status = after, graph = f[2], tier = f[3], reason = f[4], error = f[5],
    step = f[6] or '0', attempt = f[7] or '0', worker = f[8], priority = f[9] }
  local args = {}
  for field, value in pairs(changes) do
    task[field] = value
    args[#args + 1] = field
    args[#args + 1] = value
  end
  local seq = announce(thread, id, task, now)
  if not f[10] then
    args[#args + 1] = 'first_seq'
    args[#args + 1] = seq
  end
  task.last_seq = seq
  redis.call('HSET', key, 'status', after, 'updated', now, 'last_seq', seq, unpack(args))
  redis.call('HINCRBY', key, 'rev', 1)
  redis.call('HSET', thread, 'updated', now)
  return task
end

local function bell(thread, id, priority)
  local f = redis.call('HMGET', thread .. ':task:' .. id, 'tier', 'priority')
  return { id, f[1], priority or f[2] }
end

-- The ring for the thread's owner if it could be claimed now, else false.
local function bell_for_owner(thread, now)
  local owner = redis.call('HGET', thread, 'owner')
  if not owner or owner == '' then
    return false
  end
  local f = redis.call('HMGET', thread .. ':task:' .. owner, 'status', 'not_before')
  if f[1] and TRANSITIONS[f[1]].claim and ms(f[2]) <= now then
    return bell(thread, owner)
  end
  return false
end

-- End a live task; the next of the thread becomes its owner. Returns the task's fields, the worker that held it (or
-- false) and the next ring (or false); or nil and the status that forbids it.
local function end_task(thread, id, verb, changes, now)
  changes.finished = now
  changes.interrupts = '[]'
  changes.not_before = ''
  local owner = redis.call('HGET', thread, 'owner')
  local task, status = transition(thread, id, verb, changes, now)
  if not task then
    return nil, status
  end
  redis.call('ZREM', thread .. ':deadlines', id)
  if owner == id then
    local following = redis.call('LPOP', thread .. ':queue') or ''
    redis.call('HSET', thread, 'fence', '', 'lost', '', 'keep', '', 'owner', following)
  else
    redis.call('LREM', thread .. ':queue', 1, id)
  end
  return task, task.before == 'running' and task.worker or false, bell_for_owner(thread, now)
end

-- Take the owner's lease away: queued again, or dead if the attempts are used up. Returns the ring (or false).
-- `free`: it was one of several, any of which may have been the fault; so it is suspected, and costs no attempt yet.
local function lose(thread, id, reason, now, free)
  local f = redis.call('HMGET', thread .. ':task:' .. id, 'losses', 'max_attempts', 'attempt', 'worker', 'suspicions')
  free = free and ms(f[2]) > 1
  local losses = ms(f[1]) + (free and 0 or 1)
  local suspicions = ms(f[5]) + (free and 1 or 0)
  local died = reason == 'worker_lost'
  local error = cjson.encode({ type = died and 'WorkerLost' or 'LeaseExpired', worker = f[4], message = 'attempt '
    .. f[3] .. ' was cut off: worker ' .. f[4] .. (died and ' died' or ' did not renew its lease') })
  if losses >= ms(f[2]) then
    local _, _, following = end_task(thread, id, 'bury', { losses = losses, error = error, reason = reason }, now)
    return following
  end
  redis.call('HSET', thread, 'fence', '', 'lost', cjson.encode({ f[4], tonumber(f[3]) }))
  local task = transition(thread, id, 'lose', { losses = losses, suspicions = suspicions, error = error,
    reason = reason }, now)
  return { id, task.tier, 'recovery' }
end

-- The milliseconds for which this server has been up; a lease is not taken away within its own length of a start.
local function uptime_ms()
  return tonumber(string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)')) * 1000
end

-- When the rescuer should look at this thread next; -1 if nothing there can need it.
local function next_look(thread, now, ring_again)
  local f = redis.call('HMGET', thread, 'owner', 'fence', 'until')
  if not f[1] or f[1] == '' then
    return -1
  end
  local look = math.huge
  if f[2] and f[2] ~= '' then
    look = math.max(ms(f[3]), now + 100)
  else
    local t = redis.call('HMGET', thread .. ':task:' .. f[1], 'status', 'not_before')
    if t[1] and TRANSITIONS[t[1]].claim then
      look = ms(t[2]) > now and ms(t[2]) or now + ring_again
    end
  end
  local deadline = redis.call('ZRANGE', thread .. ':deadlines', 0, 0, 'WITHSCORES')
  if deadline[2] then
    look = math.min(look, tonumber(deadline[2]))
  end
  return look == math.huge and -1 or look
end
