-- Say that a beat lives, and hear which ones do. A set that is none is moved out of the way: each
-- beat that lives says so again within a fraction of a second.
--
-- KEYS  1 beats   2 aside: where a value of another type is moved to
-- ARGV  1 owner   2 now_ms   3 dead_ms: when it is taken for dead
--       4 latest_ms: the latest such instant that is believed; a dead beat that is never taken for
--       dead would keep its share of the shards
-- Answers  each living beat with when it is taken for dead
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'zset' and kind ~= 'none' then
  redis.call('RENAME', KEYS[1], KEYS[2])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. ARGV[4], '+inf')
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
