-- Count one trouble: once for each run, however often it is reported, and without a run once until
-- it is over.
--
-- KEYS  1 incident   2 incidents: open ones   3 of_job: open ones of the job
--       4 delivery: of the run
-- ARGV  1 id   2 now_ms   3 kind: one that 0.1.0 knows   4 job_id   5 job_name   6 text
--       7 run_id: '' = none   8 keep_seconds: how long to keep the mark on the run   9 sort: its kind
-- Answers  count, the count at its last report, '1' if somebody acknowledged it;
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local mark = 'noted:' .. ARGV[1]
local is_open = ask('ZSCORE', KEYS[2], ARGV[1])
local incident = fields(KEYS[1], 'count', 'told', 'acked_ms')
local count = whole(KEYS[1], 'count', incident[1], 0)
local told = whole(KEYS[1], 'told', incident[2], 0)
local is_known, is_acked = is_open, incident[3]
check('SCARD', KEYS[3])
if ARGV[7] ~= '' then
  is_known = ask('HEXISTS', KEYS[4], mark) == 1
end
if broken then
  -- The normal answer has three values too; the word 'broken' distinguishes them.
  return broken_answer()
end

if not is_known then
  if not is_open then
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], 'first_ms', ARGV[2], 'told', 0)
    count, told, is_acked = 0, 0, nil
  end
  if ARGV[7] ~= '' then
    redis.call('HSET', KEYS[4], mark, 1)
    if redis.call('TTL', KEYS[4]) < 0 then
      redis.call('EXPIRE', KEYS[4], ARGV[8])
    end
  end
  count = count + 1
  redis.call('HSET', KEYS[1], 'count', string.format('%d', count), 'kind', ARGV[3],
    'sort', ARGV[9], 'job_id', ARGV[4], 'job_name', ARGV[5], 'text', ARGV[6],
    'last_ms', ARGV[2], 'last_run_id', ARGV[7])
  redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
  redis.call('SADD', KEYS[3], ARGV[1])
end
return {string.format('%d', count), string.format('%d', told), is_acked and '1' or '0'}
