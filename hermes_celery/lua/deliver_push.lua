-- Push the message of a delivery that is due (again). Claims make a second copy harmless.
--
-- KEYS  1 term counter   2 deliveries   3 delivery hash   4 Celery queue
-- ARGV  1 fencing token   2 id   3 deadline seen, ms   4 now_ms   5 first wait, ms
--       6 longest wait, ms   7 message
-- Answers  'ok', 'moved' (looked after meanwhile), 'fenced' (an older leader)
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 'fenced'
end
local deadline = redis.call('ZSCORE', KEYS[2], ARGV[2])
if not deadline or tonumber(deadline) ~= tonumber(ARGV[3]) then
  return 'moved'
end
-- While no worker takes it, the copies become rarer.
local pushes = redis.call('HINCRBY', KEYS[3], 'pushes', 1)
local wait = math.min(tonumber(ARGV[5]) * 2 ^ math.min(pushes - 1, 20), tonumber(ARGV[6]))
redis.call('ZADD', KEYS[2], string.format('%.0f', tonumber(ARGV[4]) + wait), ARGV[2])
redis.call('LPUSH', KEYS[4], ARGV[7])
return 'ok'
