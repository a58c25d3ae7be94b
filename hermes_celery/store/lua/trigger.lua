-- Record runs that somebody requested by hand; the job's schedule stays as it is.
--
-- KEYS  1 job   2 active: runs of the job   3 held: runs of the job   4 queue: of Celery
--       5 queued: all queued runs   6 runs: all of them   7 job_runs: runs by job
--       8 grown: jobs whose history grew   9 idempotency: the key   then the run hash of each run
-- ARGV  1 job_id   2 job_name   3 now_ms   4 redeliver_at_ms: when to push a queued run again
--       5 keep_seconds: how long to keep the idempotency key   6 trigger   7 default_queue
--       8 why_sent: reason to end a run as sent when it is pushed ('' = its workers report)
--       then for each run: 1 run id   2 message (a placeholder, which begins with a space, is not
--       pushed: rescue builds the real one)   3 when to push it, ms ('' = now, 'held' = when the
--       previous run ends)
-- Answers  'again' and the run id that the same key made before, 'gone' (no such job), else 'ok'
--          and the ids of the new runs, without those that had a record already;
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
--#include _sent
local before = ask('GET', KEYS[9])
if before then
  return {'again', before}
end
local spec = ask('HGET', KEYS[1], 'spec')
if not broken and not spec then
  return {'gone'}
end
check('HLEN', KEYS[2])
check('LLEN', KEYS[3])
check('LLEN', KEYS[4])
check('ZCARD', KEYS[5])
check('ZCARD', KEYS[6])
check('ZCARD', KEYS[7])
check('SCARD', KEYS[8])
if broken then
  return broken_answer()
end

local made = {'ok'}
for i = 1, #KEYS - 9 do
  local a, run = 8 + (i - 1) * 3, KEYS[9 + i]
  local id, message, push_at = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  if redis.call('EXISTS', run) == 0 then
    made[#made + 1] = id
    redis.call('HSET', run, 'job_name', ARGV[2], 'queued_ms', ARGV[3], 'state', 'queued',
      'trigger', ARGV[6])
    if KEYS[4] ~= ARGV[7] then
      redis.call('HSET', run, 'queue', KEYS[4])
    end
    redis.call('ZADD', KEYS[6], ARGV[3], id)
    redis.call('ZADD', KEYS[7], 0, id)
    local is_late = string.byte(message) == 32
    if is_late then
      redis.call('HSET', run, 'unpushed', 'new')
    end
    if push_at == 'held' and redis.call('EXISTS', KEYS[2]) == 1 then
      redis.call('RPUSH', KEYS[3], id .. '\0' .. message)
    elseif is_late and (push_at == '' or push_at == 'held') then
      redis.call('HSET', KEYS[2], id, 'queued')
      redis.call('ZADD', KEYS[5], ARGV[3], id)
    elseif ARGV[8] ~= '' and (push_at == '' or push_at == 'held') then
      set_sent(run, ARGV[3], ARGV[8])
      redis.call('HSET', KEYS[1], 'last_run_ms', ARGV[3], 'last_status', JOB_SENT)
      redis.call('HDEL', KEYS[1], 'last_error')
      redis.call('LPUSH', KEYS[4], message)
    else
      redis.call('HSET', KEYS[2], id, 'queued')
      if push_at == '' or push_at == 'held' then
        redis.call('ZADD', KEYS[5], ARGV[4], id)
        redis.call('LPUSH', KEYS[4], message)
      else
        redis.call('HSET', run, 'unpushed', 'new')
        redis.call('ZADD', KEYS[5], push_at, id)
      end
    end
  end
end
if #made > 1 then
  redis.call('SADD', KEYS[8], ARGV[1])
  redis.call('SET', KEYS[9], made[2], 'EX', ARGV[5])
end
return made
