-- Record that a delivery server answered, or that an attempt timed out.
--
-- KEYS  1 breaker
-- ARGV  1 has_answered: '1' or ''   2 now_ms   3 first_wait_ms: wait after the first failure
--       4 longest_wait_ms   5 keep_seconds: how long the breaker is kept
-- Answers  the end of the wait, Unix ms; 0 for none;
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local fails = whole(KEYS[1], 'fails', fields(KEYS[1], 'fails')[1], 0)
if broken then
  return broken_answer()
elseif ARGV[1] == '1' then
  redis.call('DEL', KEYS[1])
  return 0
end
fails = math.max(fails, 0) + 1
local wait = math.min(tonumber(ARGV[3]) * 2 ^ math.min(fails - 1, 20), tonumber(ARGV[4]))
local until_ms = string.format('%.0f', tonumber(ARGV[2]) + wait)
redis.call('HSET', KEYS[1], 'fails', string.format('%d', fails), 'until_ms', until_ms)
redis.call('EXPIRE', KEYS[1], ARGV[5])
return tonumber(until_ms)
