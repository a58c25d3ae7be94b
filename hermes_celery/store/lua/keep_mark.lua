-- Keep the mark of a namespace, which says that the server has its memory, in two places: where one
-- of them alone was lost, or another mark was written there since, it is written again.
-- What is no hexadecimal number is no mark, and counts as lost.
--
-- KEYS  1 mark: of the namespace   2 jobs: all of them   3 sweep: its notes, with a copy of the mark
-- ARGV  1 new_mark: where jobs are there and neither place has one
-- Answers  'ok', 'none' (there is no mark, and there are no jobs; nothing changed),
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
