-- Note that a far end has answered, or that it took its whole time and did not.
--
-- KEYS  1 breaker hash
-- ARGV  1 '1' if it has answered   2 now_ms   3 wait after the first failure, ms
--       4 longest wait, ms   5 seconds that the breaker is kept
-- Answers  until when others wait, Unix ms; 0 when they need not;
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
