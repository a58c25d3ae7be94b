-- Take the right to send one part of a delivery, or keep it for longer.
--
-- A claim that has run out is doubted first, and taken over only when its sender has still said
-- nothing for the whole of the grace: after a server that stood still, the senders that waited for it
-- must come before those who find their claims run out.
--
-- KEYS  1 delivery   2 deliveries
-- ARGV  1 id   2 part   3 token: of the claim   4 now_ms   5 until_ms: when the claim dies
--       6 grace_ms
-- Answers  'ok', the number of this attempt, pieces sent before (a token that asks again keeps both)
--          'taken' (somebody sends it now), 'later' (its next attempt is not due), 'over';
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
-- If the sender dies, somebody looks again when the claim is dead.
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[1])
return {'ok', string.format('%d', attempts), string.format('%d', sent)}
