-- What every end of a run has in common: it is off the indexes, its job hears of it, a run that was
-- held back by it goes onto the queue, and a job that has had its last run is completed.
--
-- `at` names the keys: run, job, active, held, due, queued, completed, queue; `what` the values:
-- id, now, status (the job's last_status), problem, redeliver_at.
local function end_run(at, what)
  redis.call('HDEL', at.active, what.id)
  local held = redis.call('LPOP', at.held)
  if held then
    local cut = string.find(held, '\0', 1, true)
    local id = string.sub(held, 1, cut - 1)
    redis.call('HSET', at.active, id, 'queued')
    redis.call('ZADD', at.queued, what.redeliver_at, id)
    redis.call('LPUSH', at.queue, string.sub(held, cut + 1))
  end
  if redis.call('EXISTS', at.job) == 0 then
    return
  end
  redis.call('HSET', at.job, 'last_run_ms', what.now, 'last_status', what.status)
  if what.problem == '' then
    redis.call('HDEL', at.job, 'last_error')
  else
    redis.call('HSET', at.job, 'last_error', what.problem)
  end
  local failures = 0
  if what.status == 'ok' then
    redis.call('HDEL', at.job, 'failures')
  elseif what.status == 'error' then
    failures = redis.call('HINCRBY', at.job, 'failures', 1)
  end
  local job = redis.call('HMGET', at.job, 'next_ms', 'state', 'pause_after')
  if job[2] ~= 'scheduled' then
    return
  end
  if not job[1] and redis.call('EXISTS', at.active) == 0 then
    redis.call('HSET', at.job, 'state', 'completed')
    redis.call('ZADD', at.completed, what.now, string.sub(what.id, 1, 12))
  elseif job[1] and job[3] and failures >= tonumber(job[3]) then
    redis.call('HSET', at.job, 'state', 'paused', 'paused_ms', what.now,
      'paused_reason', failures .. ' failures in a row')
    redis.call('ZREM', at.due, string.sub(what.id, 1, 12))
  end
end
