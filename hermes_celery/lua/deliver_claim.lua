-- Take the right to send one part of a delivery.
--
-- KEYS  1 delivery hash   2 deliveries
-- ARGV  1 id   2 part   3 claim token   4 now_ms   5 when the claim dies, ms
-- Answers  'ok', the number of this attempt, pieces sent before
--          'taken' (somebody sends it now), 'later' (its next attempt is not due), 'over'
local at = ARGV[2]
local part = redis.call('HMGET', KEYS[1], at .. ':state', at .. ':until', at .. ':next',
  at .. ':sent')
local now = tonumber(ARGV[4])
if part[1] ~= 'pending' then
  return {'over'}
elseif tonumber(part[2] or 0) > now then
  return {'taken'}
elseif tonumber(part[3] or 0) > now then
  return {'later'}
end
redis.call('HSET', KEYS[1], at .. ':claim', ARGV[3], at .. ':until', ARGV[5])
redis.call('HDEL', KEYS[1], 'pushes')
-- If the sender dies, somebody looks again when the claim is dead.
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[1])
return {'ok', redis.call('HINCRBY', KEYS[1], at .. ':attempts', 1), part[4] or '0'}
