-- Claim the planning of a delivery, and count it at once, so that a crash while planning is
-- counted.
--
-- KEYS  1 delivery   2 deliveries
-- ARGV  1 id   2 token: the planner's   3 now_ms   4 until_ms: when the claim ends
--       5 most: the largest number of plannings
-- Answers  'ok', 'taken' (another worker plans it now), 'planned' (it has a plan already),
--          'spent' (planning has begun too often without success: the caller must end it),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local known = fields(KEYS[1], 'parts', 'again', 'planner', 'planner_until', 'plannings')
local until_ms = whole(KEYS[1], 'planner_until', known[4], 0)
local plannings = whole(KEYS[1], 'plannings', known[5], 0)
local look_ms = tonumber(ask('ZSCORE', KEYS[2], ARGV[1]) or 0)
if broken then
  return broken_answer()
elseif known[1] and not known[2] then
  return 'planned'
elseif known[3] == ARGV[2] then
  -- The planner asks again, because the answer was lost.
  return plannings > tonumber(ARGV[5]) and 'spent' or 'ok'
elseif until_ms > tonumber(ARGV[3]) then
  return 'taken'
end

redis.call('HSET', KEYS[1], 'planner', ARGV[2], 'planner_until', ARGV[4],
  'plannings', string.format('%d', plannings + 1))
-- If the planner dies, the delivery is checked again, later each time, as pushes become rarer.
redis.call('ZADD', KEYS[2], string.format('%.0f', math.max(look_ms, tonumber(ARGV[4]))), ARGV[1])
return plannings >= tonumber(ARGV[5]) and 'spent' or 'ok'
