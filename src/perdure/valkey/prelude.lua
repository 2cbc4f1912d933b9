-- What all functions share. Keys of a thread are derived from its record's key, which is always KEYS[1]; they share
-- its slot.

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function refuse(code, text)
  return redis.error_reply(code .. ' ' .. text)
end

-- Does this holder still own the thread? `fence` is `token:nonce`, as `claim` handed it out.
local function holds(thread, fence)
  return redis.call('HGET', thread, 'fence') == fence
end

local LOST = 'LEASELOST another attempt owns the task, or it ended'

local function json_string(text)
  return cjson.encode(text)
end

-- Number and store events. `events` is a flat list of method, tag, namespace, body. Returns the last seq.
local function append(thread, task_id, events, first)
  local count = (#events - first + 1) / 4
  if count < 1 then
    return tonumber(redis.call('HGET', thread, 'seq') or '0')
  end
  local last = redis.call('HINCRBY', thread, 'seq', count)
  local seq = last - count
  local stream = thread .. ':events'
  for i = first, #events, 4 do
    seq = seq + 1
    redis.call('XADD', stream, string.format('%d-0', seq), 'm', events[i], 'g', events[i + 1], 'k', task_id,
      'n', events[i + 2], 'd', events[i + 3])
  end
  -- A user without the right to publish is found out by the start-up check; here it must not leave half a verb done.
  redis.pcall('SPUBLISH', thread .. ':bell', last)
  return last
end
