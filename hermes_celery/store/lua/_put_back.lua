-- Return a claimed run to the queue until an instant, when its message is pushed again. The caller
-- first checks the keys with `check_put_back`.
--
-- `at` has the keys run, active, queued and heartbeats. With `has_begun`, the run's work has begun,
-- so its record keeps the start time.
--#include _checked

local function check_put_back(at)
  check('HLEN', at.active)
  check('ZCARD', at.queued)
  check('ZCARD', at.heartbeats)
end

local function put_back(at, id, ready_at, has_begun)
  redis.call('HSET', at.run, 'state', 'queued', 'unpushed', '1')
  redis.call('HDEL', at.run, 'claim', 'worker')
  if not has_begun then
    redis.call('HDEL', at.run, 'started_ms')
  end
  redis.call('HSET', at.active, id, 'queued')
  redis.call('ZREM', at.heartbeats, id)
  redis.call('ZADD', at.queued, ready_at, id)
end
