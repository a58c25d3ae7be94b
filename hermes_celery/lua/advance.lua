-- Move the schedules of a batch of jobs on, write their runs' records and push their messages.
--
-- Two phases: everything is read and checked first, then written by commands that cannot fail; so a
-- key that is not as it should be costs the steps that need it, never the rest of the batch.
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
-- Answers  'fenced' for all (an older leader); 'broken', a key and what is wrong with it, for all (an
--          index that all of them need; nothing changed); else one for each step:
--          'ok'       dispatched
--          'held'     recorded; its message is pushed when the run before it ends
--          'overlap'  as many runs of the job as may be are active: recorded as skipped
--          'skipped'  recorded as skipped, for the reason given
--          'moved'    the job was edited, moved on or removed meanwhile: nothing changed
--          'ran'      this occurrence has its record already: the schedule moved on, no second run
--          {'broken', a key, what is wrong with it}   nothing changed for this step
--#include _checked
local call = redis.call
local token = ask('GET', KEYS[1])
if not broken and token ~= ARGV[1] then
  return {'fenced'}
end
check('ZCARD', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
check('SCARD', KEYS[7])
if broken then
  return broken_answer()
end
local now, n, queues = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local none = {}
-- A queue that is no list costs those whose messages go there.
local bad_queues = {}
for number = 1, queues do
  check('LLEN', KEYS[7 + number])
  bad_queues[number] = broken
  broken = nil
end
-- Where a job stands after its earlier steps in this batch, by the key of its hash; and the runs that
-- they record.
local standings, recorded = {}, {}

local function standing_of(job)
  local seen = fields(job, 'revision', 'next_ms', 'state', 'completed')
  return {
    revision = seen[1],
    next_ms = seen[2],
    state = seen[3],
    completed = whole(job, 'completed', seen[4], 0),
    -- `active` and `held`, how many runs are, are read when they are needed.
  }
end

-- Why an occurrence is skipped that the active runs leave no room for.
local function overlap_reason(active)
  for _, state in ipairs(ask('HVALS', active) or none) do
    if state == 'running' then
      return 'overlap: an earlier run still runs'
    elseif state == 'retrying' then
      return 'overlap: an earlier run waits for its next attempt'
    end
  end
  return 'overlap: an earlier run still waits for a worker'
end

-- What becomes of a step whose job still stands where it was seen.
local function admit(standing, run, active, held, choices)
  if recorded[run] or call('EXISTS', run) == 1 then
    check('HLEN', run)
    return 'ran'
  elseif choices.skip then
    return 'skipped'
  end
  standing.active = standing.active or ask('HLEN', active) or 0
  if standing.active < tonumber(choices.active or 1) then
    return 'ok'
  elseif held then
    standing.held = standing.held or ask('LLEN', held) or 0
    if standing.held < tonumber(choices.held) then
      return 'held'
    end
  end
  return 'overlap'
end

local answers, steps = {}, {}
local k = 7 + queues
for i = 1, n do
  local a = 5 + (i - 1) * 7
  local next_ms, run_id = ARGV[a + 3], ARGV[a + 4]
  local choices = ARGV[a + 7] == '' and none or cjson.decode(ARGV[a + 7])
  local job, run, active, held = KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], nil
  k = k + 3
  if choices.held then
    k = k + 1
    held = KEYS[k]
  end
  local standing = standings[job]
  if not standing then
    standing = standing_of(job)
    standings[job] = standing
  end
  local step = {id = string.sub(run_id, 1, 12), job = job, run = run, run_id = run_id,
    active = active, held = held, choices = choices, a = a, queue = tonumber(choices.queue or 1)}
  local answer = 'moved'
  if not broken and standing.revision == ARGV[a + 1] and standing.next_ms == ARGV[a + 2] and
      standing.state == 'scheduled' then
    answer = admit(standing, run, active, held, choices)
    local admitted = answer == 'ok' or answer == 'held'
    if admitted then
      broken = broken or bad_queues[step.queue]
    elseif answer == 'overlap' then
      step.reason = overlap_reason(active)
    elseif next_ms == '' then
      -- Whether the job is completed now is asked of them.
      check('HLEN', active)
    end
    if not admitted and choices.skipped then
      next_ms = choices.skipped
    end
    step.next_ms, step.admitted = next_ms, admitted
    if not broken then
      standing.next_ms = next_ms ~= '' and next_ms
      standing.completed = standing.completed + (admitted and 1 or 0)
      step.completed = standing.completed
      if answer == 'ok' then
        standing.active = standing.active + 1
      elseif answer == 'held' then
        standing.held = standing.held + 1
      end
      if answer ~= 'ran' then
        recorded[run] = true
      end
    end
  end
  if broken then
    answers[i] = broken_answer()
    -- The steps of this job that build on this one find it moved.
    standing.revision = false
    broken = nil
  else
    answers[i] = answer
    step.answer = answer
    -- Paused or removed jobs are off the index already; one that is not would be read for ever.
    step.is_gone = answer == 'moved' and standing.revision ~= false and standing.state ~= 'scheduled'
    steps[#steps + 1] = step
  end
end

local due, gone, queued, runs, by_job, grown, pushes = {}, {}, {}, {}, {}, {}, {}
for _, step in ipairs(steps) do
  local answer, id, a = step.answer, step.id, step.a
  if step.is_gone then
    gone[#gone + 1] = id
  elseif answer ~= 'moved' then
    if step.next_ms ~= '' then
      due[#due + 1] = step.next_ms
      due[#due + 1] = id
      call('HSET', step.job, 'next_ms', step.next_ms, 'completed', step.completed)
    else
      gone[#gone + 1] = id
      call('HDEL', step.job, 'next_ms')
      if not step.admitted and call('EXISTS', step.active) == 0 then
        call('HSET', step.job, 'completed', step.completed, 'state', 'completed')
        call('ZADD', KEYS[6], now, id)
      else
        call('HSET', step.job, 'completed', step.completed)
      end
    end
    local choices, queue = step.choices, step.queue
    if step.admitted then
      call('HSET', step.run, 'job_name', ARGV[a + 5], 'queued_ms', now, 'state', 'queued')
      if choices.expires then
        call('HSET', step.run, 'expires_ms', choices.expires)
      end
      if queue > 1 then
        call('HSET', step.run, 'queue', KEYS[7 + queue])
      end
    elseif answer ~= 'ran' then
      call('HSET', step.run, 'job_name', ARGV[a + 5], 'queued_ms', now, 'finished_ms', now,
        'state', 'skipped', 'attempt', '0', 'reason', choices.skip or step.reason)
    end
    if answer == 'ok' then
      call('HSET', step.active, step.run_id, 'queued')
      queued[#queued + 1] = ARGV[3]
      queued[#queued + 1] = step.run_id
      pushes[queue] = pushes[queue] or {}
      table.insert(pushes[queue], ARGV[a + 6])
    elseif answer == 'held' then
      call('RPUSH', step.held, step.run_id .. '\0' .. ARGV[a + 6])
    end
    if answer ~= 'ran' then
      runs[#runs + 1] = now
      runs[#runs + 1] = step.run_id
      by_job[#by_job + 1] = '0'
      by_job[#by_job + 1] = step.run_id
      grown[#grown + 1] = id
    end
  end
end

-- A job that has no next instant has none after any later step, so what is removed stays removed.
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
