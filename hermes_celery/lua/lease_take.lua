-- Become the leader if nobody is.
--
-- KEYS  1 lease   2 term counter   3 leader hash
-- ARGV  1 owner   2 lease_ms   3 now_ms
-- Answers  'ok', the new term (the fencing token), 0
--          'held', the owner, milliseconds until the lease expires
local owner = redis.call('GET', KEYS[1])
if owner then
  return {'held', owner, redis.call('PTTL', KEYS[1])}
end
local term = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('HSET', KEYS[3], 'owner', ARGV[1], 'term', term, 'since_ms', ARGV[3])
return {'ok', tostring(term), 0}
