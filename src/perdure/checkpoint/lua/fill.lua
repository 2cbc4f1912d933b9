-- Put values or writes of a copied thread in place. They are not seen before `adopt` names them.
-- KEYS: 1 thread
-- ARGV: 1 fence or ''  2 end of the key's name (':blobs', ':writes:<ns>|<id>')  3.. field, value
local refused = guard(KEYS[1], ARGV[1])
if refused then
  return refused
end
for i = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[1] .. ARGV[2], ARGV[i], ARGV[i + 1])
end
return 1
