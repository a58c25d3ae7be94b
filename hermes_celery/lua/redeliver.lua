-- Push the message of a queued run again: the first one may have vanished. The claim makes a
-- second copy harmless.
--
-- KEYS  1 term counter   2 run hash   3 queued runs   4 Celery queue
-- ARGV  1 fencing token   2 run id   3 deadline seen, ms   4 next deadline, ms   5 message
-- Answers  'ok', 'moved' (claimed, ended or pushed meanwhile), 'fenced' (an older leader)
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 'fenced'
end
local deadline = redis.call('ZSCORE', KEYS[3], ARGV[2])
if not deadline or tonumber(deadline) ~= tonumber(ARGV[3]) then
  return 'moved'
end
if redis.call('HGET', KEYS[2], 'state') ~= 'queued' then
  redis.call('ZREM', KEYS[3], ARGV[2])
  return 'moved'
end
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[2])
redis.call('HINCRBY', KEYS[2], 'pushes', 1)
redis.call('LPUSH', KEYS[4], ARGV[5])
return 'ok'
