-- Stay the leader.
--
-- KEYS  1 lease   2 term counter
-- ARGV  1 owner   2 lease_ms   3 fencing token
-- Answers  'ok', 'lost' (it expired, or somebody else leads)
if redis.call('GET', KEYS[2]) ~= ARGV[3] or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 'lost'
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'ok'
