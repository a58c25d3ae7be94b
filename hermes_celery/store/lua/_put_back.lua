-- A claimed run goes back into line until an instant, when its message is pushed again. Read and
-- check its keys first: the caller does, with `check_put_back`.
--
-- `at` names the keys: run, active, queued, heartbeats; `has_begun` says whether the run's work began:
-- then its record goes on saying when.
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
