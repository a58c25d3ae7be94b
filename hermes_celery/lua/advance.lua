-- Move the schedules of a batch of jobs on, write their runs' records and push their messages.
--
-- KEYS  1 term counter   2 due index   3 queued runs   4 all runs   5 runs by job
--       6 completed jobs   7 jobs whose history grew
--       then the Celery queues of the batch
--       then for each step: job hash, run hash, active runs of the job, and where its choices have
--       `held`: held runs of the job
-- ARGV  1 fencing token   2 now_ms   3 when to push a queued run again, ms   4 number of steps
--       5 number of Celery queues; the first one is the default queue
--       then for each step: 1 revision seen   2 next_ms seen   3 next_ms if admitted ('' = none)
--       4 run id (it begins with the job's id)   5 job name   6 message
--       7 choices: '' for a job with none, or JSON, its numbers as text: `queue` which of the
--       queues, `active` most runs at once, `held` most held, `expires` ms, `skip` reason to skip,
--       `skipped` next_ms if skipped (where it is not that of 3)
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
local call = redis.call
local now, n, queues = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local answers, due, gone, queued, runs, by_job, grown, pushes = {}, {}, {}, {}, {}, {}, {}, {}
local none = {}

-- Why an occurrence is skipped that the active runs leave no room for.
local function overlap_reason(active)
  for _, state in ipairs(call('HVALS', active)) do
    if state == 'running' then
      return 'overlap: an earlier run still runs'
    elseif state == 'retrying' then
      return 'overlap: an earlier run waits for its next attempt'
    end
  end
  return 'overlap: an earlier run still waits for a worker'
end

local function admit(run, active, held, choices)
  if call('EXISTS', run) == 1 then
    return 'ran'
  elseif choices.skip then
    return 'skipped'
  elseif call('HLEN', active) < tonumber(choices.active or 1) then
    return 'ok'
  elseif held and call('LLEN', held) < tonumber(choices.held) then
    return 'held'
  end
  return 'overlap'
end

local k = 7 + queues
for i = 1, n do
  local a = 5 + (i - 1) * 7
  local next_ms, run_id, message = ARGV[a + 3], ARGV[a + 4], ARGV[a + 6]
  local id = string.sub(run_id, 1, 12)
  local choices = ARGV[a + 7] == '' and none or cjson.decode(ARGV[a + 7])
  local job, run, active, held = KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], nil
  k = k + 3
  if choices.held then
    k = k + 1
    held = KEYS[k]
  end
  local seen = call('HMGET', job, 'revision', 'next_ms', 'state', 'completed')
  local answer = 'moved'
  if seen[1] == ARGV[a + 1] and seen[2] == ARGV[a + 2] and seen[3] == 'scheduled' then
    answer = admit(run, active, held, choices)
    local admitted = answer == 'ok' or answer == 'held'
    local completed = tonumber(seen[4] or 0) + (admitted and 1 or 0)
    if not admitted and choices.skipped then
      next_ms = choices.skipped
    end
    if next_ms ~= '' then
      due[#due + 1] = next_ms
      due[#due + 1] = id
      call('HSET', job, 'next_ms', next_ms, 'completed', completed)
    else
      gone[#gone + 1] = id
      call('HDEL', job, 'next_ms')
      call('HSET', job, 'completed', completed)
      if not admitted and call('EXISTS', active) == 0 then
        call('HSET', job, 'state', 'completed')
        call('ZADD', KEYS[6], now, id)
      end
    end
    local queue = tonumber(choices.queue or 1)
    if admitted then
      call('HSET', run, 'job_name', ARGV[a + 5], 'queued_ms', now, 'state', 'queued')
      if choices.expires then
        call('HSET', run, 'expires_ms', choices.expires)
      end
      if queue > 1 then
        call('HSET', run, 'queue', KEYS[7 + queue])
      end
    elseif answer ~= 'ran' then
      call('HSET', run, 'job_name', ARGV[a + 5], 'queued_ms', now, 'finished_ms', now,
        'state', 'skipped', 'attempt', '0', 'reason', choices.skip or overlap_reason(active))
    end
    if answer == 'ok' then
      call('HSET', active, run_id, 'queued')
      queued[#queued + 1] = ARGV[3]
      queued[#queued + 1] = run_id
      pushes[queue] = pushes[queue] or {}
      table.insert(pushes[queue], message)
    elseif answer == 'held' then
      call('RPUSH', held, run_id .. '\0' .. message)
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

if #due > 0 then call('ZADD', KEYS[2], unpack(due)) end
if #gone > 0 then call('ZREM', KEYS[2], unpack(gone)) end
if #queued > 0 then call('ZADD', KEYS[3], unpack(queued)) end
if #runs > 0 then
  call('ZADD', KEYS[4], unpack(runs))
  call('ZADD', KEYS[5], unpack(by_job))
  call('SADD', KEYS[7], unpack(grown))
end
for queue, messages in pairs(pushes) do
  call('LPUSH', KEYS[7 + queue], unpack(messages))
end
return answers
