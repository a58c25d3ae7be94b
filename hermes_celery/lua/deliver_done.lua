-- Record how an attempt to send one part went.
--
-- KEYS  1 delivery hash   2 run hash   3 job hash   4 deliveries
-- ARGV  1 id   2 now_ms   3 seconds that the record is kept when all is done   4 part
--       5 claim token   6 state ('pending' = to be tried again)   7 error   8 next attempt, ms
--       9 pieces sent so far
-- Answers  'ok' and where the delivery stands as a whole, 'late' (the claim is no longer ours)
--#include _settle
local at = ARGV[4]
if redis.call('HGET', KEYS[1], at .. ':claim') ~= ARGV[5] then
  return {'late', ''}
end
redis.call('HSET', KEYS[1], at .. ':state', ARGV[6], at .. ':error', ARGV[7], at .. ':next', ARGV[8],
  at .. ':sent', ARGV[9])
redis.call('HDEL', KEYS[1], at .. ':claim', at .. ':until')
return {'ok', settle({delivery = KEYS[1], run = KEYS[2], job = KEYS[3], deliveries = KEYS[4]},
  {id = ARGV[1], now = ARGV[2], keep_seconds = ARGV[3]})}
