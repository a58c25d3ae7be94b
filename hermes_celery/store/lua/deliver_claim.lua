-- Claim one part of a delivery for sending, or renew the claim.
--
-- An expired claim is first marked as doubtful. Another sender gets the part only if its owner does
-- not renew the claim within the grace period. The reason: after a frozen server comes back,
-- senders that waited for it must be able to renew before others take their expired claims.
--
-- KEYS  1 delivery   2 deliveries
-- ARGV  1 id   2 part   3 token: of the claim   4 now_ms   5 until_ms: when the claim expires
--       6 grace_ms
-- Answers  'ok', the number of this attempt, pieces sent before (a renewal keeps both)
--          'taken' (another sender has it), 'later' (its next attempt is not due), 'over';
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local at = ARGV[2]
local part = fields(KEYS[1], at .. ':state', at .. ':claim', at .. ':until', at .. ':next',
  at .. ':sent', at .. ':attempts', at .. ':doubt')
local until_ms = whole(KEYS[1], at .. ':until', part[3], 0)
local next_ms = whole(KEYS[1], at .. ':next', part[4], 0)
local sent = whole(KEYS[1], at .. ':sent', part[5], 0)
local attempts = whole(KEYS[1], at .. ':attempts', part[6], 0)
local doubt_ms = whole(KEYS[1], at .. ':doubt', part[7])
check('ZCARD', KEYS[2])
local now = tonumber(ARGV[4])
if broken then
  return broken_answer()
elseif part[1] ~= 'pending' then
  return {'over'}
end
local is_ours = part[2] == ARGV[3]
if not is_ours then
  if until_ms > now or (doubt_ms or 0) > now then
    return {'taken'}
  elseif next_ms > now then
    return {'later'}
  elseif part[2] and not doubt_ms then
    local over_ms = string.format('%.0f', now + tonumber(ARGV[6]))
    redis.call('HSET', KEYS[1], at .. ':doubt', over_ms)
    redis.call('ZADD', KEYS[2], over_ms, ARGV[1])
    return {'taken'}
  end
  attempts = attempts + 1
end

redis.call('HSET', KEYS[1], at .. ':claim', ARGV[3], at .. ':until', ARGV[5],
  at .. ':attempts', string.format('%d', attempts))
redis.call('HDEL', KEYS[1], 'pushes', at .. ':doubt')
-- If the sender dies, the delivery is checked again when the claim expires.
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[1])
return {'ok', string.format('%d', attempts), string.format('%d', sent)}
