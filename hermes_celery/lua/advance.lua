-- Move the schedules of a batch of jobs on, write their runs' records and push their messages.
--
-- KEYS  1 term counter   2 due index   3 queued runs   4 all runs   5 runs by job
--       then for each job: job hash, run hash, active runs of the job, Celery queue
-- ARGV  1 fencing token   2 now_ms   3 when to push a queued run again, ms   4 number of jobs
--       then for each job: 1 job id   2 revision seen   3 next_ms seen   4 next_ms if dispatched
--       5 next_ms if skipped ('' = none)   6 run id   7 due_ms   8 job name   9 message
-- Answers  'fenced' for all (an older leader), else one word for each job:
--          'ok'       dispatched
--          'overlap'  an earlier run of the job still runs: recorded as skipped
--          'moved'    the job was edited, moved on or removed meanwhile: nothing changed
--          'ran'      this occurrence has its record already: the schedule moved on, no second run
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {'fenced'}
end
local now, n = ARGV[2], tonumber(ARGV[4])
local answers, due, gone, queued, runs, by_job, pushes = {}, {}, {}, {}, {}, {}, {}

for i = 1, n do
  local a, k = 4 + (i - 1) * 9, 5 + (i - 1) * 4
  local id, next_ms, run_id = ARGV[a + 1], ARGV[a + 4], ARGV[a + 6]
  local job, run, active, queue = KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], KEYS[k + 4]
  local seen = redis.call('HMGET', job, 'revision', 'next_ms', 'state')
  local answer = 'ok'
  if seen[1] ~= ARGV[a + 2] or seen[2] ~= ARGV[a + 3] or seen[3] ~= 'scheduled' then
    answer = 'moved'
  elseif redis.call('EXISTS', run) == 1 then
    answer = 'ran'
  elseif redis.call('EXISTS', active) == 1 then
    answer = 'overlap'
  end
  answers[i] = answer
  if answer ~= 'moved' then
    if answer ~= 'ok' then
      next_ms = ARGV[a + 5]
    end
    if next_ms == '' then
      gone[#gone + 1] = id
      redis.call('HDEL', job, 'next_ms')
      if answer ~= 'ok' and redis.call('EXISTS', active) == 0 then
        redis.call('HSET', job, 'state', 'completed')
      end
    else
      due[#due + 1] = next_ms
      due[#due + 1] = id
      redis.call('HSET', job, 'next_ms', next_ms)
    end
  end
  if answer == 'ok' then
    redis.call('HINCRBY', job, 'completed', 1)
    redis.call('HSET', run, 'job_id', id, 'job_name', ARGV[a + 8], 'due_ms', ARGV[a + 7],
      'queued_ms', now, 'state', 'queued', 'attempt', '1')
    redis.call('SADD', active, run_id)
    queued[#queued + 1] = ARGV[3]
    queued[#queued + 1] = run_id
    pushes[queue] = pushes[queue] or {}
    table.insert(pushes[queue], ARGV[a + 9])
  elseif answer == 'overlap' then
    redis.call('HSET', run, 'job_id', id, 'job_name', ARGV[a + 8], 'due_ms', ARGV[a + 7],
      'queued_ms', now, 'finished_ms', now, 'state', 'skipped', 'attempt', '0', 'reason', 'overlap')
  end
  if answer == 'ok' or answer == 'overlap' then
    runs[#runs + 1] = now
    runs[#runs + 1] = run_id
    by_job[#by_job + 1] = '0'
    by_job[#by_job + 1] = run_id
  end
end

if #due > 0 then redis.call('ZADD', KEYS[2], unpack(due)) end
if #gone > 0 then redis.call('ZREM', KEYS[2], unpack(gone)) end
if #queued > 0 then redis.call('ZADD', KEYS[3], unpack(queued)) end
if #runs > 0 then redis.call('ZADD', KEYS[4], unpack(runs)) end
if #by_job > 0 then redis.call('ZADD', KEYS[5], unpack(by_job)) end
for queue, messages in pairs(pushes) do
  redis.call('LPUSH', queue, unpack(messages))
end
return answers
