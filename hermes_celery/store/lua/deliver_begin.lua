-- Take the right to plan a delivery, and count that: whoever dies of it has been counted.
--
-- KEYS  1 delivery   2 deliveries
-- ARGV  1 id   2 token: the planner's   3 now_ms   4 until_ms: when the right ends
--       5 most: so many plannings
-- Answers  'ok', 'taken' (somebody plans it now), 'planned' (there is nothing to plan),
--          'spent' (it was begun that often and never planned: the asker is to end it),
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
  -- Asked again by the planner itself, whose answer was lost on the way.
  return plannings > tonumber(ARGV[5]) and 'spent' or 'ok'
elseif until_ms > tonumber(ARGV[3]) then
  return 'taken'
end

redis.call('HSET', KEYS[1], 'planner', ARGV[2], 'planner_until', ARGV[4],
  'plannings', string.format('%d', plannings + 1))
-- If the planner dies, somebody looks again: later each time, as the pushes become rarer.
redis.call('ZADD', KEYS[2], string.format('%.0f', math.max(look_ms, tonumber(ARGV[4]))), ARGV[1])
return plannings >= tonumber(ARGV[5]) and 'spent' or 'ok'
