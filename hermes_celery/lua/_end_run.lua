-- What every end of a run has in common: off the indexes, its job told, a finished job completed.
local function end_run(run_key, job_key, active_key, run_id, now, status, problem)
  redis.call('SREM', active_key, run_id)
  if redis.call('EXISTS', job_key) == 1 then
    redis.call('HSET', job_key, 'last_run_ms', now, 'last_status', status)
    if problem == '' then
      redis.call('HDEL', job_key, 'last_error')
    else
      redis.call('HSET', job_key, 'last_error', problem)
    end
    local job = redis.call('HMGET', job_key, 'next_ms', 'state')
    if not job[1] and job[2] == 'scheduled' and redis.call('EXISTS', active_key) == 0 then
      redis.call('HSET', job_key, 'state', 'completed')
    end
  end
end
