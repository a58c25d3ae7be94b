-- Write the stored format, if nobody changed it meanwhile.
--
-- KEYS  1 term   2 format: as it is stored   3 aside: where it goes when it cannot be read
-- ARGV  1 token: of the leader   2 kind: its type as it was seen ('none' = there was none)
--       3 held: what it held, where that is a string   4 new: what it is to hold
--       5 way: 'keep', or 'aside' to move it out of the way first
-- Answers  'ok', 'moved' (somebody changed it: look again), 'fenced' (an older leader),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local token = ask('GET', KEYS[1])
if broken then
  return broken_answer()
end
if token ~= ARGV[1] then
  return 'fenced'
end
local kind = redis.call('TYPE', KEYS[2])
kind = kind.ok or kind
if kind ~= ARGV[2] or (kind == 'string' and redis.call('GET', KEYS[2]) ~= ARGV[3]) then
  return 'moved'
end

if ARGV[5] == 'aside' and kind ~= 'none' then
  redis.call('RENAME', KEYS[2], KEYS[3])
end
redis.call('SET', KEYS[2], ARGV[4])
return 'ok'
