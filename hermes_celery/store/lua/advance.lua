-- Advance the schedules of a batch of jobs, write their runs' records and push their messages.
--
-- Two phases: first everything is read and checked, then it is written by commands that cannot
-- fail. So a broken key affects only the steps that need it, never the rest of the batch.
--
-- KEYS  1 term counter   2 due index   3 queued runs   4 all runs   5 runs by job
--       6 completed jobs   7 jobs whose history grew
--       then the Celery queues of the batch
--       then for each step: job hash, run hash, active runs of the job, and held runs of the job if
--       its choices have `held`
-- ARGV  1 fencing token   2 now_ms   3 when to push a queued run again, ms   4 number of steps
--       5 number of Celery queues; the first one is the default queue
--       then for each step: 1 revision seen   2 next_ms seen   3 next_ms if admitted ('' = none)
--       4 run id (it begins with the job's id)   5 job name   6 message
--       7 choices: '' for the defaults, or JSON with numbers as text: `queue` number of its queue,
--       `active` most active runs, `held` most held runs, `expires` ms, `skip` reason to skip,
--       `skipped` next_ms if skipped (if different from 3), `sent` reason to end the run as sent
--       when dispatched (only workers that do not report consume its queue), `late` the caller
--       builds and pushes the message; if it does not, rescue does so at this time, ms
-- Answers  'fenced' for all (a younger leader is known); 'broken', a key and what is wrong with it,
--          for all (an index that all steps need; nothing changed); else one for each step:
--          'ok'       dispatched; with `late` recorded as queued, and its message is still to be built
--          'held'     recorded; its message is pushed when the previous run ends
--          'overlap'  recorded as skipped: the job has its maximum of active runs
--          'skipped'  recorded as skipped, for the given reason
--          'moved'    the job was edited, advanced or removed meanwhile: nothing changed
--          'ran'      this occurrence has its record already: advanced without a second run
--          {'broken', a key, what is wrong with it}   nothing changed for this step
--#include _checked
--#include _sent
local call = redis.call
local token = ask('GET', KEYS[1])
if not broken and token ~= ARGV[1] then
  return {'fenced'}
end
check('ZCARD', KEYS[2])
check('ZCARD', KEYS[3])
check('ZCARD', KEYS[4])
check('ZCARD', KEYS[5])
check('ZCARD', KEYS[6])
check('SCARD', KEYS[7])
if broken then
  return broken_answer()
end
local now, n, queues = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local none = {}
-- A queue of another type breaks only the steps that push to it.
local bad_queues = {}
for number = 1, queues do
  check('LLEN', KEYS[7 + number])
  bad_queues[number] = broken
  broken = nil
end
-- The state of each job after its earlier steps in this batch, by the key of its hash: a list of
-- revision, next_ms, state, completed, and the numbers of active and held runs, once read.
local REVISION, NEXT_MS, STATE, COMPLETED, ACTIVE, HELD = 1, 2, 3, 4, 5, 6
local standings = {}

-- Return the reason for a skip because of the active runs.
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

-- Return the answer for a step whose job has not changed since it was read.
local function admit(standing, run, active, held, choices)
  if call('EXISTS', run) == 1 then
    check('HLEN', run)
    return 'ran'
  elseif choices.skip then
    return 'skipped'
  end
  local actives = standing[ACTIVE] or ask('HLEN', active) or 0
  standing[ACTIVE] = actives
  if actives < tonumber(choices.active or 1) then
    return 'ok'
  elseif held then
    standing[HELD] = standing[HELD] or ask('LLEN', held) or 0
    if standing[HELD] < tonumber(choices.held) then
      return 'held'
    end
  end
  return 'overlap'
end

-- The first phase. Lists by step: the position of its keys, its choices, and the decisions.
local answers, places, choices_of, next_of, completed_of, reason_of = {}, {}, {}, {}, {}, {}
local k = 7 + queues
for i = 1, n do
  local a = 5 + (i - 1) * 7
  local next_ms = ARGV[a + 3]
  local choices = ARGV[a + 7] == '' and none or cjson.decode(ARGV[a + 7])
  local job, run, active, held = KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], nil
  places[i], choices_of[i] = k, choices
  k = k + 3
  if choices.held then
    k = k + 1
    held = KEYS[k]
  end
  local standing = standings[job]
  if not standing then
    standing = fields(job, 'revision', 'next_ms', 'state', 'completed')
    standing[COMPLETED] = whole(job, 'completed', standing[COMPLETED], 0)
    standings[job] = standing
  end
  local answer = 'moved'
  if not broken and standing[REVISION] == ARGV[a + 1] and standing[NEXT_MS] == ARGV[a + 2] and
      standing[STATE] == 'scheduled' then
    answer = admit(standing, run, active, held, choices)
    local admitted = answer == 'ok' or answer == 'held'
    if admitted then
      broken = broken or bad_queues[tonumber(choices.queue or 1)]
      if choices.sent and next_ms == '' then
        check('HLEN', active)
      end
    else
      if answer == 'overlap' then
        reason_of[i] = overlap_reason(active)
      end
      next_ms = choices.skipped or next_ms
      if next_ms == '' then
        -- The second phase reads them to decide whether the job is completed.
        check('HLEN', active)
      end
    end
    if not broken then
      standing[NEXT_MS] = next_ms
      if admitted then
        standing[COMPLETED] = standing[COMPLETED] + 1
        local count = answer == 'ok' and ACTIVE or HELD
        if not (answer == 'ok' and choices.sent) then
          standing[count] = standing[count] + 1
        end
      end
      next_of[i], completed_of[i] = next_ms, standing[COMPLETED]
    end
  end
  if broken then
    answer = broken_answer()
    -- Later steps of this job depend on this one, so they answer 'moved'.
    standing[REVISION], standing[STATE] = false, 'scheduled'
    broken = nil
  end
  answers[i] = answer
end

-- The second phase: nothing in it can fail.
local due, gone, queued, runs, by_job, grown, pushes = {}, {}, {}, {}, {}, {}, {}
for i = 1, n do
  local a, answer = 5 + (i - 1) * 7, answers[i]
  local job, run, active = KEYS[places[i] + 1], KEYS[places[i] + 2], KEYS[places[i] + 3]
  local run_id, next_ms = ARGV[a + 4], next_of[i]
  local id = string.sub(run_id, 1, 12)
  if answer == 'moved' then
    if standings[job][STATE] ~= 'scheduled' then
      -- Paused and removed jobs should not be in the index; an entry left there would be due for
      -- ever.
      gone[#gone + 1] = id
    end
  elseif next_ms then
    local choices, admitted = choices_of[i], answer == 'ok' or answer == 'held'
    local sent = answer == 'ok' and choices.sent
    if next_ms ~= '' then
      due[#due + 1] = next_ms
      due[#due + 1] = id
      call('HSET', job, 'next_ms', next_ms, 'completed', completed_of[i])
    else
      gone[#gone + 1] = id
      call('HDEL', job, 'next_ms')
      call('HSET', job, 'completed', completed_of[i])
      if (sent or not admitted) and call('EXISTS', active) == 0 then
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
        'state', 'skipped', 'attempt', '0', 'reason', choices.skip or reason_of[i])
    end
    if sent then
      set_sent(run, now, sent)
      call('HSET', job, 'last_run_ms', now, 'last_status', JOB_SENT)
      call('HDEL', job, 'last_error')
    elseif answer == 'ok' then
      call('HSET', active, run_id, 'queued')
      queued[#queued + 1] = choices.late or ARGV[3]
      queued[#queued + 1] = run_id
    end
    if admitted and choices.late then
      call('HSET', run, 'unpushed', 'new')
    elseif answer == 'ok' then
      pushes[queue] = pushes[queue] or {}
      table.insert(pushes[queue], ARGV[a + 6])
    end
    if answer == 'held' then
      call('RPUSH', KEYS[places[i] + 4], run_id .. '\0' .. ARGV[a + 6])
    end
    if answer ~= 'ran' then
      runs[#runs + 1] = now
      runs[#runs + 1] = run_id
      by_job[#by_job + 1] = '0'
      by_job[#by_job + 1] = run_id
      grown[#grown + 1] = id
    end
  end
end

-- After a step without a next instant, later steps of the job have none either: removal comes last.
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
