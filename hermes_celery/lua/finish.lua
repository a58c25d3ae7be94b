-- Record how a run ended, or put it back in line for its next attempt.
--
-- KEYS  1 run hash   2 job hash   3 active runs of the job   4 heartbeats   5 stdout   6 stderr
--       7 held runs of the job   8 due index   9 queued runs   10 completed jobs   11 Celery queue
--       12 deliveries   13 open incidents of the job   14 Celery queue of deliveries
-- ARGV  1 claim token   2 now_ms   3 run id   4 final state   5 error   6 reason   7 exit code
--       8 delivery state   9 stdout   10 stderr   11 when to try again, ms ('' = this was the last
--       attempt)   12 when to push a run again that is queued now, ms   13 message of its delivery
--       ('' = none)   14 '1' if that is needed whatever else, '0' if to end incidents only
-- Answers  'ok', 'retry' (queued for its next attempt),
--          'late' (the claim is no longer ours: nothing changed)
--#include _end_run
local run = redis.call('HMGET', KEYS[1], 'state', 'claim', 'cancel', 'finished_by', 'attempt')
if run[4] == ARGV[1] then
  -- Finished by this very claim, whose answer was lost on the way.
  return run[1] == 'queued' and 'retry' or 'ok'
end
if run[1] ~= 'running' or run[2] ~= ARGV[1] then
  return 'late'
end
redis.call('HSET', KEYS[1], 'finished_by', ARGV[1], 'output_bytes', #ARGV[9])
for i, field in ipairs({'error', 'reason', 'exit_code'}) do
  if ARGV[4 + i] ~= '' then
    redis.call('HSET', KEYS[1], field, ARGV[4 + i])
  else
    redis.call('HDEL', KEYS[1], field)
  end
end
for i = 9, 10 do
  if ARGV[i] ~= '' then
    redis.call('SET', KEYS[i - 4], ARGV[i])
  else
    redis.call('DEL', KEYS[i - 4])
  end
end
redis.call('ZREM', KEYS[4], ARGV[3])
if ARGV[11] ~= '' and not run[3] then
  redis.call('HSET', KEYS[1], 'state', 'queued', 'queued_ms', ARGV[2], 'unpushed', '1')
  redis.call('HSET', KEYS[1], 'attempt', tonumber(run[5] or 1) + 1)
  redis.call('HDEL', KEYS[1], 'claim')
  redis.call('HSET', KEYS[3], ARGV[3], 'retrying')
  redis.call('ZADD', KEYS[9], ARGV[11], ARGV[3])
  return 'retry'
end
redis.call('HSET', KEYS[1], 'state', ARGV[4], 'finished_ms', ARGV[2], 'delivery', ARGV[8])
if ARGV[4] == 'cancelled' and run[3] then
  redis.call('HSET', KEYS[1], 'reason', run[3])
end
end_run({run = KEYS[1], job = KEYS[2], active = KEYS[3], held = KEYS[7], due = KEYS[8],
  queued = KEYS[9], completed = KEYS[10], queue = KEYS[11]},
  {id = ARGV[3], now = ARGV[2], problem = ARGV[5], redeliver_at = ARGV[12],
  status = ({succeeded = 'ok', cancelled = 'cancelled'})[ARGV[4]] or 'error'})
if ARGV[13] ~= '' and (ARGV[14] == '1' or
    (ARGV[4] == 'succeeded' and redis.call('EXISTS', KEYS[13]) == 1)) then
  redis.call('ZADD', KEYS[12], ARGV[12], ARGV[3])
  redis.call('LPUSH', KEYS[14], ARGV[13])
end
return 'ok'
