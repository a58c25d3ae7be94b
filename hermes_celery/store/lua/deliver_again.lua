-- Deliver a run's output once more: to all its targets, or to those that it did not reach.
--
-- KEYS  1 run   2 delivery   3 deliveries   4 queue: of Celery
-- ARGV  1 run_id   2 mode: 'failed' or 'all'   3 push_at_ms: when to push it again   4 message
-- Answers  'ok', 'gone' (no such run), 'running' (it has not ended),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local state = fields(KEYS[1], 'state')[1]
check('HLEN', KEYS[2])
check('ZCARD', KEYS[3])
check('LLEN', KEYS[4])
if broken then
  return broken_answer()
elseif not state then
  return 'gone'
elseif state == 'queued' or state == 'running' then
  return 'running'
end

redis.call('PERSIST', KEYS[2])
redis.call('HSET', KEYS[2], 'again', ARGV[2])
redis.call('HDEL', KEYS[2], 'pushes', 'planner', 'planner_until', 'plannings')
redis.call('HSET', KEYS[1], 'delivery', 'pending')
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
redis.call('LPUSH', KEYS[4], ARGV[4])
return 'ok'
