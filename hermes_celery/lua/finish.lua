-- Record how a run ended.
--
-- KEYS  1 run hash   2 job hash   3 active runs of the job   4 heartbeats   5 stdout   6 stderr
-- ARGV  1 claim token   2 now_ms   3 run id   4 final state   5 error   6 reason   7 exit code
--       8 delivery state   9 stdout   10 stderr
-- Answers  'ok', 'late' (the claim is no longer ours: nothing changed)
--#include _end_run
local run = redis.call('HMGET', KEYS[1], 'state', 'claim', 'cancel')
if run[2] ~= ARGV[1] then
  return 'late'
end
if run[1] ~= 'running' then
  -- Finished by this very claim, whose answer was lost on the way.
  return run[1] == ARGV[4] and 'ok' or 'late'
end
redis.call('HSET', KEYS[1], 'state', ARGV[4], 'finished_ms', ARGV[2], 'delivery', ARGV[8],
  'output_bytes', #ARGV[9])
for i, field in ipairs({'error', 'reason', 'exit_code'}) do
  if ARGV[4 + i] ~= '' then
    redis.call('HSET', KEYS[1], field, ARGV[4 + i])
  end
end
if ARGV[4] == 'cancelled' and run[3] then
  redis.call('HSET', KEYS[1], 'reason', run[3])
end
for i = 9, 10 do
  if ARGV[i] ~= '' then
    redis.call('SET', KEYS[i - 4], ARGV[i])
  end
end
redis.call('ZREM', KEYS[4], ARGV[3])
end_run(KEYS[1], KEYS[2], KEYS[3], ARGV[3], ARGV[2],
  ARGV[4] == 'succeeded' and 'ok' or (ARGV[4] == 'cancelled' and 'cancelled' or 'error'), ARGV[5])
return 'ok'
