-- Give up a running run whose worker is gone, or queue its next attempt.
--
-- Rescue calls this for a run whose heartbeat stopped, a worker for a run whose process has ended.
--
-- KEYS  1 term   2 run   3 job   4 active: runs of the job   5 heartbeats
--       6 held: runs of the job   7 due: the due index   8 queued: all queued runs
--       9 completed: jobs   10 queue: of Celery   11 deliveries
-- ARGV  1 token: of the leader ('' = its worker calls)   2 now_ms   3 run_id   4 error
--       5 retry_at_ms: when to try again ('' = never)
--       6 redeliver_at_ms: when to push a run again that is queued now
--       7 claimed: prefix of its claim ('' = rescue calls: the claim must have expired)
--       8 state: its final state
--       9 is_requeued: '1' if the message of its next attempt is on a queue already, '0' to push it
-- Answers  'ok', 'retry' (queued for its next attempt),
--          'alive' (it sent a heartbeat, or ended, meanwhile), 'fenced' (a younger leader is known),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _end_run
if ARGV[1] ~= '' then
  local token = ask('GET', KEYS[1])
  if not broken and token ~= ARGV[1] then
    return 'fenced'
  end
end
local deadline = ask('ZSCORE', KEYS[5], ARGV[3])
if ARGV[7] == '' and deadline and tonumber(deadline) > tonumber(ARGV[2]) then
  return 'alive'
end
local run = fields(KEYS[2], 'state', 'cancel', 'attempt', 'claim')
if not broken and run[1] ~= 'running' then
  if ARGV[7] == '' then
    redis.call('ZREM', KEYS[5], ARGV[3])
  end
  return 'alive'
end
if ARGV[7] ~= '' and string.sub(run[4] or '', 1, #ARGV[7]) ~= ARGV[7] then
  return 'alive'
end
local attempt = whole(KEYS[2], 'attempt', run[3], 1)
local at = {run = KEYS[2], job = KEYS[3], active = KEYS[4], held = KEYS[6], due = KEYS[7],
  queued = KEYS[8], completed = KEYS[9], queue = KEYS[10]}
local is_retry = ARGV[5] ~= '' and not run[2]
local found
check('ZCARD', KEYS[5])
if is_retry then
  check('HLEN', KEYS[4])
  check('ZCARD', KEYS[8])
else
  found = look_at_end(at)
  check('ZCARD', KEYS[11])
end
if broken then
  return broken_answer()
end

redis.call('ZREM', KEYS[5], ARGV[3])
-- If its worker comes back late, its claim is void.
redis.call('HDEL', KEYS[2], 'claim')
if is_retry then
  redis.call('HSET', KEYS[2], 'state', 'queued', 'queued_ms', ARGV[2], 'error', ARGV[4],
    'attempt', string.format('%d', attempt + 1))
  if ARGV[9] ~= '1' then
    redis.call('HSET', KEYS[2], 'unpushed', 'next')
  end
  redis.call('HSET', KEYS[4], ARGV[3], 'retrying')
  redis.call('ZADD', KEYS[8], ARGV[5], ARGV[3])
  return 'retry'
end
local is_asked = run[2] and ARGV[7] ~= ''
if is_asked then
  -- Somebody cancelled the run, and its worker has ended it.
  redis.call('HSET', KEYS[2], 'state', 'cancelled', 'finished_ms', ARGV[2], 'reason', run[2])
  end_run(at, {id = ARGV[3], now = ARGV[2], status = 'cancelled', problem = '',
    redeliver_at = ARGV[6]}, found)
  return 'ok'
end
redis.call('HSET', KEYS[2], 'state', ARGV[8], 'finished_ms', ARGV[2], 'error', ARGV[4],
  'delivery', 'pending')
-- The next pass of rescue pushes its message.
redis.call('ZADD', KEYS[11], ARGV[2], ARGV[3])
end_run(at, {id = ARGV[3], now = ARGV[2], status = 'error', problem = ARGV[4],
  redeliver_at = ARGV[6]}, found)
return 'ok'
