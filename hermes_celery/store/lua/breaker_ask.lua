-- Ask whether a far end may be tried that has not answered lately.
--
-- While it does not answer, one attempt at a time is made, and the others are told to wait for it.
--
-- KEYS  1 breaker
-- ARGV  1 now_ms   2 until_ms: the others wait so long if this attempt is made
--       3 keep_seconds: so long the breaker is kept
-- Answers  'go' and 0, or 'wait' and until when, Unix ms;
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
