-- Keep an answer under an Idempotency-Key, or return what is kept.
-- KEYS: 1 idempotency key
-- ARGV: 1 fingerprint  2 answer  3 time to live (ms)
-- Returns false, or { fingerprint, answer }
local kept = redis.call('HMGET', KEYS[1], 'fingerprint', 'answer')
if kept[1] then
  return kept
end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'answer', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return false
