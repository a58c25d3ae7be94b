-- Say that a beat lives, and hear which ones do.
--
-- KEYS  1 beats
-- ARGV  1 owner   2 now_ms   3 when it is taken for dead, ms
-- Answers  each living beat with when it is taken for dead
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
