-- Move the schedules of a batch of jobs on, write their runs' records and push their messages.
--
-- KEYS  1 term counter   2 due index   3 queued runs   4 all runs   5 runs by job
--       6 completed jobs   7 jobs whose history grew
--       then for each step: job hash, run hash, active runs of the job, held runs of the job,
--       Celery queue
-- ARGV  1 fencing token   2 now_ms   3 when to push a queued run again, ms   4 number of steps
--       5 the default queue
--       then for each step: 1 job id   2 revision seen   3 next_ms seen   4 next_ms if admitted
--       5 next_ms if skipped ('' = none)   6 run id   7 due_ms   8 job name   9 message
--       10 most runs at once   11 most held   12 expires_ms ('' = never)   13 reason to skip ('' =
--       none)
-- Answers  'fenced' for all (an older leader), else one word for each step:
--          'ok'       dispatched
--          'held'     recorded; its message is pushed when the run before it ends
--          'overlap'  as many runs of the job as may be are active: recorded as skipped
--          'skipped'  recorded as skipped, for the reason given
--          'moved'    the job was edited, moved on or removed meanwhile: nothing changed
--          'ran'      this occurrence has its record already: the schedule moved on, no second run
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {'fenced'}
end
local now, n = ARGV[2], tonumber(ARGV[4])
local answers, due, gone, queued, runs, by_job, grown, pushes = {}, {}, {}, {}, {}, {}, {}, {}

-- Why an occurrence is skipped that the active runs leave no room for.
local function overlap_reason(active)
  for _, state in ipairs(redis.call('HVALS', active)) do
    if state == 'running' then
      return 'overlap: an earlier run still runs'
    elseif state == 'retrying' then
      return 'overlap: an earlier run waits for its next attempt'
    end
  end
  return 'overlap: an earlier run still waits for a worker'
end

local function admit(reason, run, active, held, most_active, most_held)
  if redis.call('EXISTS', run) == 1 then
    return 'ran'
  elseif reason ~= '' then
    return 'skipped'
  elseif redis.call('HLEN', active) < most_active then
    return 'ok'
  elseif redis.call('LLEN', held) < most_held then
    return 'held'
  end
  return 'overlap'
end

for i = 1, n do
  local a, k = 5 + (i - 1) * 13, 7 + (i - 1) * 5
  local id, run_id, reason, next_ms = ARGV[a + 1], ARGV[a + 6], ARGV[a + 13], ARGV[a + 4]
  local job, run, active, held, queue =
    KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], KEYS[k + 4], KEYS[k + 5]
  local seen = redis.call('HMGET', job, 'revision', 'next_ms', 'state')
  local answer = 'moved'
  if seen[1] == ARGV[a + 2] and seen[2] == ARGV[a + 3] and seen[3] == 'scheduled' then
    answer = admit(reason, run, active, held, tonumber(ARGV[a + 10]), tonumber(ARGV[a + 11]))
    local admitted = answer == 'ok' or answer == 'held'
    if not admitted then
      next_ms = ARGV[a + 5]
    end
    if next_ms == '' then
      gone[#gone + 1] = id
      redis.call('HDEL', job, 'next_ms')
      if not admitted and redis.call('EXISTS', active) == 0 then
        redis.call('HSET', job, 'state', 'completed')
        redis.call('ZADD', KEYS[6], now, id)
      end
    else
      due[#due + 1] = next_ms
      due[#due + 1] = id
      redis.call('HSET', job, 'next_ms', next_ms)
    end
    if admitted then
      redis.call('HINCRBY', job, 'completed', 1)
      redis.call('HSET', run, 'job_id', id, 'job_name', ARGV[a + 8], 'due_ms', ARGV[a + 7],
        'queued_ms', now, 'state', 'queued', 'attempt', '1')
      if ARGV[a + 12] ~= '' then
        redis.call('HSET', run, 'expires_ms', ARGV[a + 12])
      end
      if queue ~= ARGV[5] then
        redis.call('HSET', run, 'queue', queue)
      end
    elseif answer ~= 'ran' then
      if answer == 'overlap' then
        reason = overlap_reason(active)
      end
      redis.call('HSET', run, 'job_id', id, 'job_name', ARGV[a + 8], 'due_ms', ARGV[a + 7],
        'queued_ms', now, 'finished_ms', now, 'state', 'skipped', 'attempt', '0',
        'reason', reason)
    end
    if answer == 'ok' then
      redis.call('HSET', active, run_id, 'queued')
      queued[#queued + 1] = ARGV[3]
      queued[#queued + 1] = run_id
      pushes[queue] = pushes[queue] or {}
      table.insert(pushes[queue], ARGV[a + 9])
    elseif answer == 'held' then
      redis.call('RPUSH', held, run_id .. '\0' .. ARGV[a + 9])
    end
    if answer ~= 'ran' then
      runs[#runs + 1] = now
      runs[#runs + 1] = run_id
      by_job[#by_job + 1] = '0'
      by_job[#by_job + 1] = run_id
      grown[#grown + 1] = id
    end
  end
  if answer == 'moved' and seen[3] ~= 'scheduled' then
    -- Paused or removed jobs are off the index already; one that is not would be read for ever.
    gone[#gone + 1] = id
  end
  answers[i] = answer
end

if #due > 0 then redis.call('ZADD', KEYS[2], unpack(due)) end
if #gone > 0 then redis.call('ZREM', KEYS[2], unpack(gone)) end
if #queued > 0 then redis.call('ZADD', KEYS[3], unpack(queued)) end
if #runs > 0 then
  redis.call('ZADD', KEYS[4], unpack(runs))
  redis.call('ZADD', KEYS[5], unpack(by_job))
  redis.call('SADD', KEYS[7], unpack(grown))
end
for queue, messages in pairs(pushes) do
  redis.call('LPUSH', queue, unpack(messages))
end
return answers
