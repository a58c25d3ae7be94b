-- Give up a running run whose heartbeat stopped.
--
-- KEYS  1 term counter   2 run hash   3 job hash   4 active runs of the job   5 heartbeats
-- ARGV  1 fencing token   2 now_ms   3 run id   4 error
-- Answers  'ok', 'alive' (it gave a heartbeat, or ended, meanwhile), 'fenced' (an older leader)
--#include _end_run
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 'fenced'
end
local deadline = redis.call('ZSCORE', KEYS[5], ARGV[3])
if deadline and tonumber(deadline) > tonumber(ARGV[2]) then
  return 'alive'
end
redis.call('ZREM', KEYS[5], ARGV[3])
if redis.call('HGET', KEYS[2], 'state') ~= 'running' then
  return 'alive'
end
redis.call('HSET', KEYS[2], 'state', 'lost', 'finished_ms', ARGV[2], 'error', ARGV[4])
end_run(KEYS[2], KEYS[3], KEYS[4], ARGV[3], ARGV[2], 'error', ARGV[4])
return 'ok'
