-- What every end of a run has in common: it is off the indexes, its job hears of it, a run that was
-- held back by it goes onto the queue, and a job that has had its last run is completed.
--
-- Two phases: `look_at_end` reads and checks (see `_checked`), `end_run` writes what it found.
-- `at` names the keys: run, job, active, held, due, queued, completed, queue; `what` the values:
-- id, now, status (the job's last_status), problem, redeliver_at.
--#include _checked

-- The run that waits for this one: its id and message; nil when none does.
local function first_held(key)
  local entry = ask('LINDEX', key, 0)
  if not entry then
    return nil
  end
  local cut = string.find(entry, '\0', 1, true)
  if not cut then
    is_broken(key, 'holds an entry that is no run')
    return nil
  end
  return {id = string.sub(entry, 1, cut - 1), message = string.sub(entry, cut + 1)}
end

local function look_at_end(at)
  local job = fields(at.job, 'state', 'next_ms', 'pause_after', 'failures', 'last_error', 'spec')
  local found = {
    held = first_held(at.held),
    is_stored = job[1] or job[6],
    state = job[1],
    next_ms = job[2],
    pause_after = whole(at.job, 'pause_after', job[3]),
    failures = whole(at.job, 'failures', job[4], 0),
    had_failures = job[4],
    had_error = job[5],
  }
  check('HLEN', at.active)
  check('ZCARD', at.queued, at.due, at.completed)
  if found.held then
    check('LLEN', at.queue)
  end
  return found
end

local function end_run(at, what, found)
  redis.call('HDEL', at.active, what.id)
  if found.held then
    redis.call('LPOP', at.held)
    redis.call('HSET', at.active, found.held.id, 'queued')
    redis.call('ZADD', at.queued, what.redeliver_at, found.held.id)
    redis.call('LPUSH', at.queue, found.held.message)
  end
  if not found.is_stored then
    return
  end
  local failures = 0
  local set, gone = {'last_run_ms', what.now, 'last_status', what.status}, {}
  if what.problem ~= '' then
    set[#set + 1] = 'last_error'
    set[#set + 1] = what.problem
  elseif found.had_error then
    gone[#gone + 1] = 'last_error'
  end
  if what.status == 'error' then
    failures = found.failures + 1
    set[#set + 1] = 'failures'
    set[#set + 1] = string.format('%d', failures)
  elseif what.status == 'ok' and found.had_failures then
    gone[#gone + 1] = 'failures'
  end
  local job_id = string.sub(what.id, 1, 12)
  if found.state == 'scheduled' then
    if not found.next_ms and redis.call('EXISTS', at.active) == 0 then
      set[#set + 1] = 'state'
      set[#set + 1] = 'completed'
      redis.call('ZADD', at.completed, what.now, job_id)
    elseif found.next_ms and found.pause_after and failures >= found.pause_after then
      for _, part in ipairs({'state', 'paused', 'paused_ms', what.now,
        'paused_reason', failures .. ' failures in a row'}) do
        set[#set + 1] = part
      end
      redis.call('ZREM', at.due, job_id)
    end
  end
  redis.call('HSET', at.job, unpack(set))
  if #gone > 0 then
    redis.call('HDEL', at.job, unpack(gone))
  end
end
