-- A claimed run goes back into line until an instant, when its message is pushed again.
--
-- `at` names the keys: run, active, queued, heartbeats.
local function put_back(at, id, ready_at)
  redis.call('HSET', at.run, 'state', 'queued', 'unpushed', '1')
  redis.call('HDEL', at.run, 'claim', 'started_ms', 'worker')
  redis.call('HSET', at.active, id, 'queued')
  redis.call('ZREM', at.heartbeats, id)
  redis.call('ZADD', at.queued, ready_at, id)
end
