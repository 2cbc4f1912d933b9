-- Take a queued, due task that owns its thread.
-- KEYS: 1 thread
-- ARGV: 1 task id  2 worker  3 lease time (ms)  4 nonce
-- Returns false, or { token, epoch, lost (json or ''), first superseded, last superseded, task hash as a flat list,
--         how often it was rung for again }
local thread, id = KEYS[1], ARGV[1]
local key = thread .. ':task:' .. id
local r = redis.call('HMGET', thread, 'owner', 'epoch', 'lost', 'keep', 'head_task', 'head_seq', 'seq', 'head', 'rings')
if r[1] ~= id then
  return false
end
local t = redis.call('HMGET', key, 'status', 'not_before', 'attempt', 'started', 'first_seq')
local now = now_ms()
if not TRANSITIONS[t[1]].claim or ms(t[2]) > now then
  return false
end
local token = redis.call('HINCRBY', thread, 'token', 1)
redis.call('HSET', thread, 'fence', string.format('%d:%s', token, ARGV[4]), 'until', now + tonumber(ARGV[3]),
  'ttl', ARGV[3], 'lost', '', 'keep', '', 'rings', 0, 'said', 0)
local attempt = ms(t[3]) + 1
if r[4] == '1' then
  attempt = ms(t[3])
end
local changes = { attempt = string.format('%d', attempt), worker = ARGV[2], reason = '', not_before = '' }
if not t[4] or t[4] == '' then
  changes.started = now
  changes.base_checkpoint = r[8] or ''
end
local first = (r[5] == id and ms(r[6]) or ms(t[5])) + 1
local last = ms(r[7])
transition(thread, id, 'claim', changes, now)
return { token, r[2], r[3] or '', first, last, redis.call('HGETALL', key), ms(r[9]) }
