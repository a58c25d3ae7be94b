-- Push the message of a due delivery (again). Claims make a second copy harmless.
--
-- KEYS  1 term   2 deliveries   3 delivery   4 queue: of Celery
-- ARGV  1 token: of the leader   2 id   3 seen_ms: the deadline seen   4 now_ms   5 first_wait_ms
--       6 longest_wait_ms   7 message
-- Answers  'ok', 'moved' (its deadline has changed), 'fenced' (a younger leader is known);
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local term = ask('GET', KEYS[1])
if not broken and term ~= ARGV[1] then
  return 'fenced'
end
local deadline = ask('ZSCORE', KEYS[2], ARGV[2])
if broken then
  return broken_answer()
elseif not deadline or tonumber(deadline) ~= tonumber(ARGV[3]) then
  return 'moved'
end
local pushes = whole(KEYS[3], 'pushes', fields(KEYS[3], 'pushes')[1], 0) + 1
check('LLEN', KEYS[4])
if broken then
  return broken_answer()
end

-- While no worker takes it, copies are pushed less and less often.
redis.call('HSET', KEYS[3], 'pushes', string.format('%d', pushes))
local wait = math.min(tonumber(ARGV[5]) * 2 ^ math.min(math.max(pushes - 1, 0), 20),
  tonumber(ARGV[6]))
redis.call('ZADD', KEYS[2], string.format('%.0f', tonumber(ARGV[4]) + wait), ARGV[2])
redis.call('LPUSH', KEYS[4], ARGV[7])
return 'ok'
