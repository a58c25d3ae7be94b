-- End a waiting run as failed: no worker can read its message, however often it is pushed.
--
-- KEYS  1 run hash   2 job hash   3 active runs of the job   4 queued runs   5 held runs of the job
--       6 due index   7 completed jobs   8 Celery queue   9 deliveries
-- ARGV  1 run id   2 now_ms   3 error   4 when to push a run again that is queued now, ms
-- Answers  'ok', 'over' (it does not wait, or there is no such run),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _end_run
local run = fields(KEYS[1], 'state')
if not broken and run[1] ~= 'queued' then
  return 'over'
end
local at = {run = KEYS[1], job = KEYS[2], active = KEYS[3], held = KEYS[5], due = KEYS[6],
  queued = KEYS[4], completed = KEYS[7], queue = KEYS[8]}
local found = look_at_end(at)
check('ZCARD', KEYS[4])
check('ZCARD', KEYS[9])
if not broken and redis.call('HEXISTS', KEYS[3], ARGV[1]) == 0 then
  -- A run that is held back has no message on any queue yet.
  return 'over'
end
if broken then
  return broken_answer()
end

redis.call('HSET', KEYS[1], 'state', 'failed', 'finished_ms', ARGV[2], 'error', ARGV[3],
  'delivery', 'pending')
redis.call('ZREM', KEYS[4], ARGV[1])
-- The next pass of rescue pushes its message.
redis.call('ZADD', KEYS[9], ARGV[2], ARGV[1])
end_run(at, {id = ARGV[1], now = ARGV[2], status = 'error', problem = ARGV[3],
  redeliver_at = ARGV[4]}, found)
return 'ok'
