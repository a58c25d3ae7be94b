-- Ask for a run's end: at once if it waits, by its runner's next heartbeat if it runs.
--
-- KEYS  1 run hash   2 job hash   3 active runs of the job   4 queued runs
-- ARGV  1 run id   2 now_ms   3 reason
-- Answers  'cancelled' (it never started), 'asked' (its runner ends it), 'over' (it had ended),
--          'gone' (no such run)
--#include _end_run
local state = redis.call('HGET', KEYS[1], 'state')
if not state then
  return 'gone'
elseif state == 'running' then
  redis.call('HSETNX', KEYS[1], 'cancel', ARGV[3])
  return 'asked'
elseif state ~= 'queued' then
  return 'over'
end
redis.call('HSET', KEYS[1], 'state', 'cancelled', 'finished_ms', ARGV[2], 'reason', ARGV[3])
redis.call('ZREM', KEYS[4], ARGV[1])
end_run(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], 'cancelled', '')
return 'cancelled'
