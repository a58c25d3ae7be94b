-- Compute the state of a whole delivery from its parts; write it to the run and the job, and set
-- the delivery's next check in the index of deliveries.
--
-- Two phases: `look_at_parts` and `look_at_subject` read and check (see `_checked`), `settle`
-- writes. `at` has the keys delivery, run, job and deliveries; `what` has the values id, now and
-- keep_seconds. A part is {state=, counts=, error=, due=}.
--#include _checked

-- A larger size is invalid, and the loop below would block the server.
local MOST_PARTS = 10000

local function look_at_parts(at)
  local size = whole(at.delivery, 'size', fields(at.delivery, 'size')[1], 0)
  if size < 0 or size > MOST_PARTS then
    is_broken(at.delivery, 'has ' .. size .. ' parts')
    return {}
  end
  local parts = {}
  for number = 0, size - 1 do
    local i = string.format('%d', number)
    local part = fields(at.delivery, i .. ':state', i .. ':counts', i .. ':error', i .. ':next',
      i .. ':until')
    if not part[1] then
      is_broken(at.delivery, 'has no state of part ' .. i)
    end
    parts[number] = {
      state = part[1],
      counts = whole(at.delivery, i .. ':counts', part[2], 0) == 1,
      error = part[3] or '',
      due = math.max(whole(at.delivery, i .. ':next', part[4], 0),
        whole(at.delivery, i .. ':until', part[5], 0)),
    }
  end
  return parts
end

local function look_at_subject(at)
  check('HLEN', at.delivery)
  check('ZCARD', at.deliveries)
  local run = fields(at.run, 'delivery', 'finished_ms')
  local job = fields(at.job, 'last_run_ms', 'last_status')
  return {delivery = run[1], finished_ms = run[2], last_run_ms = job[1], last_status = job[2]}
end

-- Return a summary of the parts, with the time of the delivery's next check.
local function summed(parts)
  local sum = {counting = 0, pending = false, failed = false, problem = '', due = math.huge}
  local number = 0
  while parts[number] do
    local part = parts[number]
    if part.counts then
      sum.counting = sum.counting + 1
    end
    if part.state == 'pending' then
      sum.pending = true
      sum.due = math.min(sum.due, part.due)
    end
    if part.counts and part.state ~= 'delivered' and part.error ~= '' then
      sum.failed = sum.failed or part.state == 'failed'
      sum.problem = part.error
    end
    number = number + 1
  end
  return sum
end

local function settle(at, what, parts, subject)
  local sum = summed(parts)
  local state = 'pending'
  if sum.pending then
    redis.call('ZADD', at.deliveries,
      string.format('%.0f', math.max(sum.due, tonumber(what.now))), what.id)
  else
    state = sum.failed and 'failed' or (sum.counting > 0 and 'delivered' or 'none')
    redis.call('ZREM', at.deliveries, what.id)
    redis.call('EXPIRE', at.delivery, what.keep_seconds)
  end
  if subject.delivery == 'pending' then
    redis.call('HSET', at.run, 'delivery', state)
  end
  -- A job shows the delivery of its latest run only.
  if sum.counting == 0 or not subject.finished_ms or subject.last_run_ms ~= subject.finished_ms then
    return state
  end
  if sum.problem ~= '' then
    redis.call('HSET', at.job, 'last_delivery_error', sum.problem)
  else
    redis.call('HDEL', at.job, 'last_delivery_error')
  end
  if state == 'failed' and subject.last_status == 'ok' then
    redis.call('HSET', at.job, 'last_status', 'delivery_failed')
  elseif state == 'delivered' and subject.last_status == 'delivery_failed' then
    redis.call('HSET', at.job, 'last_status', 'ok')
  end
  return state
end
