-- Record a message without a run, and mark the incident that it reports as reported.
--
-- KEYS  1 delivery   2 deliveries   3 incident
-- ARGV  1 id   2 now_ms   3 text   4 deliver   5 job_id   6 count: of the incident
-- Answers  'ok', 'known' (recorded already, or reported by another message),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local text = fields(KEYS[1], 'text')[1]
local told = whole(KEYS[3], 'told', fields(KEYS[3], 'told')[1])
check('ZCARD', KEYS[2])
if broken then
  return broken_answer()
elseif text or (told and told >= tonumber(ARGV[6])) then
  return 'known'
end

redis.call('HSET', KEYS[1], 'text', ARGV[3], 'deliver', ARGV[4], 'job_id', ARGV[5])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
if redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('HSET', KEYS[3], 'told', ARGV[6])
end
return 'ok'
