-- Write the stored format, unless somebody changed it meanwhile.
--
-- KEYS  1 term   2 format: as it is stored   3 aside: quarantine for an unreadable value
-- ARGV  1 token: of the leader   2 kind: the type of the key as read ('none' = it was absent)
--       3 held: its value as read, if it is a string   4 new: the new value
--       5 way: 'keep', or 'aside' to quarantine the old value first
-- Answers  'ok', 'moved' (somebody changed it: read it again), 'fenced' (a younger leader is known),
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
