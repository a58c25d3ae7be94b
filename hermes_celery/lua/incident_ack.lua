-- Note that somebody knows of an incident: it is told no more until it is over.
--
-- KEYS  1 incident hash   2 open incidents
-- ARGV  1 id   2 now_ms
-- Answers  'ok', 'gone' (no such incident is open)
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  return 'gone'
end
redis.call('HSETNX', KEYS[1], 'acked_ms', ARGV[2])
return 'ok'
