-- Record that a beat lives, and list the living beats. A value of another type is quarantined: each
-- living beat enters itself again within a fraction of a second.
--
-- KEYS  1 beats   2 aside: quarantine for a value of another type
-- ARGV  1 owner   2 now_ms   3 dead_ms: when it counts as dead
--       4 latest_ms: the latest valid time of death; with a later one a dead beat would keep its
--       share of the shards
-- Answers  each living beat and the time when it counts as dead
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'zset' and kind ~= 'none' then
  redis.call('RENAME', KEYS[1], KEYS[2])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. ARGV[4], '+inf')
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
