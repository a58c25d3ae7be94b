-- Acknowledge an incident: it is not reported again until it is over.
--
-- KEYS  1 incident   2 incidents: open ones
-- ARGV  1 id   2 now_ms
-- Answers  'ok', 'before' (it was acknowledged before), 'gone' (no such incident is open),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local is_open = ask('ZSCORE', KEYS[2], ARGV[1])
check('HLEN', KEYS[1])
if broken then
  return broken_answer()
elseif not is_open then
  return 'gone'
end

return redis.call('HSETNX', KEYS[1], 'acked_ms', ARGV[2]) == 1 and 'ok' or 'before'
