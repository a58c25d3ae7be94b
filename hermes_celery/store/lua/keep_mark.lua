-- Keep the mark of a namespace in two places. If one of them was lost, or holds another mark, write
-- it again. The mark shows that the server still has its data. A value that is not a hexadecimal
-- number counts as lost.
--
-- KEYS  1 mark: of the namespace   2 jobs: all of them   3 sweep: a hash with a copy of the mark
-- ARGV  1 new_mark: for a namespace with jobs and without any mark
-- Answers  'ok', 'none' (no mark and no jobs; nothing changed),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local mark = ask('GET', KEYS[1])
local jobs = ask('ZCARD', KEYS[2])
local copy = fields(KEYS[3], 'mark')
if broken then
  return broken_answer()
end
local function valid(text)
  return text and string.find(text, '^%x+$') and text
end
local kept = valid(copy[1]) or valid(mark) or (jobs > 0 and ARGV[1])
if not kept then
  return 'none'
end

if mark ~= kept then
  redis.call('SET', KEYS[1], kept)
end
if copy[1] ~= kept then
  redis.call('HSET', KEYS[3], 'mark', kept)
end
return 'ok'
