-- Stay the leader.
--
-- KEYS  1 lease   2 term
-- ARGV  1 owner   2 lease_ms   3 token
-- Answers  'ok', 'lost' (it expired, somebody else leads, or one of both is not as it should be: who
--          takes the lease mends that)
-- A value of another type answers with an error, which is no term and no owner either.
if redis.pcall('GET', KEYS[2]) ~= ARGV[3] or redis.pcall('GET', KEYS[1]) ~= ARGV[1] then
  return 'lost'
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'ok'
