-- Record the outcome of an attempt to send one part.
--
-- KEYS  1 delivery   2 run   3 job   4 deliveries
-- ARGV  1 id   2 now_ms   3 keep_seconds: how long to keep the record after its end   4 part
--       5 token: of the claim   6 state: 'pending' = try again   7 error
--       8 next_ms: its next attempt   9 sent: pieces so far
-- Answers  'ok' and the state of the whole delivery, 'late' (the claim was lost);
--          'broken', a key and what is wrong with it (nothing changed)
--#include _settle
local at, where = ARGV[4], {delivery = KEYS[1], run = KEYS[2], job = KEYS[3], deliveries = KEYS[4]}
local mine = fields(KEYS[1], at .. ':claim', at .. ':ended_by')
-- This claim has recorded its outcome before, but the answer was lost.
local was_recorded = mine[1] ~= ARGV[5] and mine[2] == ARGV[5]
if not broken and mine[1] ~= ARGV[5] and not was_recorded then
  return {'late', ''}
end
local parts = look_at_parts(where)
local subject = look_at_subject(where)
local part = parts[tonumber(at)]
if not part then
  is_broken(KEYS[1], 'has no part ' .. at)
end
if broken then
  return broken_answer()
end

if not was_recorded then
  part.state, part.error, part.due = ARGV[6], ARGV[7], tonumber(ARGV[8])
  redis.call('HSET', KEYS[1], at .. ':state', ARGV[6], at .. ':error', ARGV[7],
    at .. ':next', ARGV[8], at .. ':sent', ARGV[9], at .. ':ended_by', ARGV[5])
  redis.call('HDEL', KEYS[1], at .. ':claim', at .. ':until', at .. ':doubt')
end
return {'ok', settle(where, {id = ARGV[1], now = ARGV[2], keep_seconds = ARGV[3]}, parts, subject)}
