-- Shared steps of every end of a run: remove it from the indexes, record the end in its job, push a
-- run that it held back, and complete a job after its last run.
--
-- Two phases: `look_at_end` reads and checks (see `_checked`), `end_run` writes.
-- `at` has the keys run, job, active, held, due, queued, completed and queue; `what` has the values
-- id, now, status (the job's last_status), problem and redeliver_at.
--#include _checked

-- Return the next run held back by this one, as its id and message; nil if there is none.
local function first_held(key)
  local entry = ask('LINDEX', key, 0)
  if not entry then
    return nil
  end
  local cut = string.find(entry, '\0', 1, true)
  if not cut then
    is_broken(key, 'holds an entry that is not a run')
    return nil
  end
  return {id = string.sub(entry, 1, cut - 1), message = string.sub(entry, cut + 1)}
end

-- Positions of the job's fields in the list that `look_at_end` returns; `held` is the held run.
local STATE, NEXT_MS, PAUSE_AFTER, FAILURES, LAST_ERROR, JOB_REVISION = 1, 2, 3, 4, 5, 6

local function look_at_end(at)
  local found = fields(at.job, 'state', 'next_ms', 'pause_after', 'failures', 'last_error',
    'revision')
  found.held = first_held(at.held)
  if found[PAUSE_AFTER] then
    found[PAUSE_AFTER] = whole(at.job, 'pause_after', found[PAUSE_AFTER])
    check('ZCARD', at.due)
  end
  if found[FAILURES] then
    found[FAILURES] = whole(at.job, 'failures', found[FAILURES], 0)
  end
  check('HLEN', at.active)
  if found.held then
    check('ZCARD', at.queued)
    check('LLEN', at.queue)
  end
  if not found[NEXT_MS] then
    check('ZCARD', at.completed)
  end
  return found
end

-- Return whether a message is a placeholder. It begins with a space; rescue builds the real
-- message.
local function is_stand_in(message)
  return string.byte(message) == 32
end

local function end_run(at, what, found)
  redis.call('HDEL', at.active, what.id)
  if found.held then
    redis.call('LPOP', at.held)
    redis.call('HSET', at.active, found.held.id, 'queued')
    if is_stand_in(found.held.message) then
      redis.call('ZADD', at.queued, what.now, found.held.id)
    else
      redis.call('ZADD', at.queued, what.redeliver_at, found.held.id)
      redis.call('LPUSH', at.queue, found.held.message)
    end
  end
  if not (found[STATE] or found[JOB_REVISION]) then
    return
  end
  local failures = 0
  local set, gone = {'last_run_ms', what.now, 'last_status', what.status}, {}
  if what.problem ~= '' then
    set[5], set[6] = 'last_error', what.problem
  elseif found[LAST_ERROR] then
    gone[1] = 'last_error'
  end
  if what.status == 'error' then
    failures = (found[FAILURES] or 0) + 1
    set[#set + 1] = 'failures'
    set[#set + 1] = string.format('%d', failures)
  elseif what.status == 'ok' and found[FAILURES] then
    gone[#gone + 1] = 'failures'
  end
  if found[STATE] == 'scheduled' then
    local job_id, next_ms = string.sub(what.id, 1, 12), found[NEXT_MS]
    if not next_ms and redis.call('EXISTS', at.active) == 0 then
      set[#set + 1] = 'state'
      set[#set + 1] = 'completed'
      redis.call('ZADD', at.completed, what.now, job_id)
    elseif next_ms and found[PAUSE_AFTER] and failures >= found[PAUSE_AFTER] then
      redis.call('HSET', at.job, 'state', 'paused', 'paused_ms', what.now,
        'paused_reason', failures .. ' failures in a row')
      redis.call('ZREM', at.due, job_id)
    end
  end
  redis.call('HSET', at.job, unpack(set))
  if #gone > 0 then
    redis.call('HDEL', at.job, unpack(gone))
  end
end
