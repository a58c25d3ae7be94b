-- Ask whether a delivery server that did not answer lately may be tried.
--
-- While it does not answer, one attempt at a time is granted; others wait for its result.
--
-- KEYS  1 breaker
-- ARGV  1 now_ms   2 until_ms: others wait until then if this attempt is granted
--       3 keep_seconds: how long the breaker is kept
-- Answers  'go' and 0, or 'wait' and the end of the wait, Unix ms;
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local row = fields(KEYS[1], 'fails', 'until_ms')
local fails = whole(KEYS[1], 'fails', row[1], 0)
local until_ms = whole(KEYS[1], 'until_ms', row[2], 0)
if broken then
  return broken_answer()
elseif fails < 1 then
  return {'go', 0}
elseif until_ms > tonumber(ARGV[1]) then
  return {'wait', until_ms}
end
redis.call('HSET', KEYS[1], 'until_ms', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {'go', 0}
