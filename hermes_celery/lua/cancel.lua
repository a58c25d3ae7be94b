-- Ask for a run's end: at once if it waits, by its runner's next heartbeat if it runs.
--
-- KEYS  1 run hash   2 job hash   3 active runs of the job   4 queued runs   5 held runs of the job
--       6 due index   7 completed jobs   8 Celery queue   9 term counter
-- ARGV  1 run id   2 now_ms   3 reason   4 state that a waiting run ends in
--       5 when to push a run again that is queued now, ms
--       6 fencing token of the leader that asks ('' = a person or a worker does)
-- Answers  'cancelled' (it never started), 'asked' (its runner ends it), 'over' (it had ended),
--          'gone' (no such run), 'fenced' (an older leader)
--#include _end_run
if ARGV[6] ~= '' and redis.call('GET', KEYS[9]) ~= ARGV[6] then
  return 'fenced'
end
local state = redis.call('HGET', KEYS[1], 'state')
if not state then
  return 'gone'
elseif state == 'running' then
  redis.call('HSETNX', KEYS[1], 'cancel', ARGV[3])
  return 'asked'
elseif state ~= 'queued' then
  return 'over'
end
redis.call('HSET', KEYS[1], 'state', ARGV[4], 'finished_ms', ARGV[2], 'reason', ARGV[3])
redis.call('ZREM', KEYS[4], ARGV[1])
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 0 then
  -- It was held back behind another run, so nobody waits for its end.
  for _, held in ipairs(redis.call('LRANGE', KEYS[5], 0, -1)) do
    if string.sub(held, 1, #ARGV[1] + 1) == ARGV[1] .. '\0' then
      redis.call('LREM', KEYS[5], 1, held)
    end
  end
  return 'cancelled'
end
end_run({run = KEYS[1], job = KEYS[2], active = KEYS[3], held = KEYS[5], due = KEYS[6],
  queued = KEYS[4], completed = KEYS[7], queue = KEYS[8]},
  {id = ARGV[1], now = ARGV[2], status = ARGV[4], problem = '', redeliver_at = ARGV[5]})
return 'cancelled'
