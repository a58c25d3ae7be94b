-- Where a delivery stands as a whole, from its parts: written to its run and job, and into the index
-- of deliveries that somebody has to look at again.
--
-- `at` names the keys: delivery, run, job, deliveries; `what` the values: id, now, keep_seconds.
local function settle(at, what)
  local parts = tonumber(redis.call('HGET', at.delivery, 'size') or 0)
  local counting, pending, failed, problem, due = 0, false, false, '', math.huge
  for number = 0, parts - 1 do
    local i = string.format('%d', number)
    local part = redis.call('HMGET', at.delivery, i .. ':state', i .. ':counts', i .. ':error',
      i .. ':next', i .. ':until')
    counting = counting + tonumber(part[2])
    if part[1] == 'pending' then
      pending = true
      due = math.min(due, math.max(tonumber(part[4] or 0), tonumber(part[5] or 0)))
    end
    if part[2] == '1' and part[1] ~= 'delivered' and part[3] and part[3] ~= '' then
      failed = failed or part[1] == 'failed'
      problem = part[3]
    end
  end
  local state = 'pending'
  if pending then
    redis.call('ZADD', at.deliveries,
      string.format('%.0f', math.max(due, tonumber(what.now))), what.id)
  else
    state = failed and 'failed' or (counting > 0 and 'delivered' or 'none')
    redis.call('ZREM', at.deliveries, what.id)
    redis.call('EXPIRE', at.delivery, what.keep_seconds)
  end
  local run = redis.call('HMGET', at.run, 'delivery', 'finished_ms')
  if run[1] == 'pending' then
    redis.call('HSET', at.run, 'delivery', state)
  end
  local job = redis.call('HMGET', at.job, 'last_run_ms', 'last_status')
  -- A job tells of its latest run only.
  if counting == 0 or not run[2] or job[1] ~= run[2] then
    return state
  end
  if problem ~= '' then
    redis.call('HSET', at.job, 'last_delivery_error', problem)
  else
    redis.call('HDEL', at.job, 'last_delivery_error')
  end
  if state == 'failed' and job[2] == 'ok' then
    redis.call('HSET', at.job, 'last_status', 'delivery_failed')
  elseif state == 'delivered' and job[2] == 'delivery_failed' then
    redis.call('HSET', at.job, 'last_status', 'ok')
  end
  return state
end
