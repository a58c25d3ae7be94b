-- Record and push one run that somebody asked for now; the job's schedule stays as it is.
--
-- KEYS  1 job hash   2 run hash   3 active runs of the job   4 Celery queue   5 queued runs
--       6 all runs   7 runs by job   8 idempotency key
-- ARGV  1 run id   2 job id   3 job name   4 due_ms   5 now_ms   6 when to push it again, ms
--       7 message   8 seconds that the idempotency key is kept
-- Answers  'ok' and the run id, 'again' and the run id that the same key made before,
--          'gone' (no such job)
local before = redis.call('GET', KEYS[8])
if before then
  return {'again', before}
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'gone', ''}
end
redis.call('HSET', KEYS[2], 'job_id', ARGV[2], 'job_name', ARGV[3], 'due_ms', ARGV[4],
  'queued_ms', ARGV[5], 'state', 'queued', 'attempt', '1', 'trigger', 'manual')
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[5], ARGV[6], ARGV[1])
redis.call('ZADD', KEYS[6], ARGV[5], ARGV[1])
redis.call('ZADD', KEYS[7], 0, ARGV[1])
redis.call('SET', KEYS[8], ARGV[1], 'EX', ARGV[8])
redis.call('LPUSH', KEYS[4], ARGV[7])
return {'ok', ARGV[1]}
