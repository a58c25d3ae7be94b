-- Take a job that cannot be planned off the schedule, so that it does not fail at every tick.
--
-- KEYS  1 term counter   2 job hash   3 due index
-- ARGV  1 fencing token   2 job id   3 error
-- Answers  'ok', 'gone' (no such job: its entry in the due index is removed), 'fenced'
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 'fenced'
end
redis.call('ZREM', KEYS[3], ARGV[2])
if redis.call('EXISTS', KEYS[2]) == 0 then
  return 'gone'
end
redis.call('HSET', KEYS[2], 'state', 'error', 'last_status', 'error', 'last_error', ARGV[3])
return 'ok'
