-- Push the message of a queued run again: the first one may have vanished. The claim makes a
-- second copy harmless.
--
-- KEYS  1 term counter   2 run hash   3 queued runs   4 Celery queue
-- ARGV  1 fencing token   2 run id   3 deadline seen, ms   4 next deadline, ms   5 message
-- Answers  'ok', 'waiting' (every queued run has its message on the queue: only the deadline moves),
--          'moved' (claimed, ended or pushed meanwhile), 'fenced' (an older leader),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local token = ask('GET', KEYS[1])
if not broken and token ~= ARGV[1] then
  return 'fenced'
end
local deadline = ask('ZSCORE', KEYS[3], ARGV[2])
if not broken and (not deadline or tonumber(deadline) ~= tonumber(ARGV[3])) then
  return 'moved'
end
local run = fields(KEYS[2], 'state', 'unpushed')
local backlog = ask('LLEN', KEYS[4])
if broken then
  return broken_answer()
end

if run[1] ~= 'queued' then
  redis.call('ZREM', KEYS[3], ARGV[2])
  return 'moved'
end
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[2])
-- Behind a long backlog nothing has vanished; more copies would only make it longer.
if not run[2] and backlog > 100 and backlog >= redis.call('ZCARD', KEYS[3]) then
  return 'waiting'
end
redis.call('HDEL', KEYS[2], 'unpushed')
redis.call('LPUSH', KEYS[4], ARGV[5])
return 'ok'
