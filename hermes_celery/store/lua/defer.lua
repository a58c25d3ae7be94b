-- Make due jobs due again later, because something that their dispatch needs is broken. Their
-- schedules stay, and missed occurrences are caught up later.
--
-- KEYS  1 term   2 due: the due index
-- ARGV  1 token: of the leader   2 now_ms   3 until_ms: when to check again   then the id of each job
-- Answers  'ok', 'fenced' (a younger leader is known), 'broken', a key and what is wrong with it
--#include _checked
local token = ask('GET', KEYS[1])
if not broken and token ~= ARGV[1] then
  return 'fenced'
end
check('ZCARD', KEYS[2])
if broken then
  return broken_answer()
end
for i = 4, #ARGV do
  local due = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if due and tonumber(due) <= tonumber(ARGV[2]) then
    redis.call('ZADD', KEYS[2], ARGV[3], ARGV[i])
  end
end
return 'ok'
