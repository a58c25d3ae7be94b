-- Take one of a concurrency group's places for a claimed run, or put the run back in line.
--
-- KEYS  1 run   2 active: runs of the job   3 queued: all queued runs   4 heartbeats   5 group
-- ARGV  1 token: of the claim   2 run_id   3 now_ms
--       4 deadline_ms: when the claim dies without a heartbeat
--       5 slots: how many the group has   6 again_ms: when to try again if none is free
-- Answers  'ok', 'full' (waits in line), 'late' (the claim is no longer ours: nothing changed),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _put_back
local run = fields(KEYS[1], 'state', 'claim')
if not broken and (run[1] ~= 'running' or run[2] ~= ARGV[1]) then
  return 'late'
end
local at = {run = KEYS[1], active = KEYS[2], queued = KEYS[3], heartbeats = KEYS[4]}
check_put_back(at)
check('ZCARD', KEYS[5])
if broken then
  return broken_answer()
end

-- Whoever died in the group is not counted longer than its heartbeat lasts.
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', '(' .. ARGV[3])
redis.call('ZREM', KEYS[5], ARGV[2])
if redis.call('ZCARD', KEYS[5]) >= tonumber(ARGV[5]) then
  put_back(at, ARGV[2], ARGV[6])
  return 'full'
end
redis.call('ZADD', KEYS[5], ARGV[4], ARGV[2])
return 'ok'
