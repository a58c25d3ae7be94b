-- Take a place in a concurrency group for a claimed run, or return the run to the queue.
--
-- KEYS  1 run   2 active: runs of the job   3 queued: all queued runs   4 heartbeats   5 group
-- ARGV  1 token: of the claim   2 run_id   3 now_ms
--       4 deadline_ms: when the claim expires without a heartbeat
--       5 slots: the size of the group   6 again_ms: when to try again if no place is free
-- Answers  'ok', 'full' (queued again), 'late' (the claim was lost: nothing changed),
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

-- A run of a dead worker counts only until its heartbeat expires.
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', '(' .. ARGV[3])
redis.call('ZREM', KEYS[5], ARGV[2])
if redis.call('ZCARD', KEYS[5]) >= tonumber(ARGV[5]) then
  put_back(at, ARGV[2], ARGV[6])
  return 'full'
end
redis.call('ZADD', KEYS[5], ARGV[4], ARGV[2])
return 'ok'
