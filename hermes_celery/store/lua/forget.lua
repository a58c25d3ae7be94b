-- Remove ended runs: record, output and index entries. A run that has not ended stays; a key that
-- is not a run's record is removed too.
--
-- KEYS  1 all runs   2 runs by job, then for each run: run hash, stdout, stderr
-- ARGV  the id of each run
-- Answers  the number of removed runs, or 'broken', a key and what is wrong with it (nothing changed)
--#include _checked
check('ZCARD', KEYS[1])
check('ZCARD', KEYS[2])
if broken then
  return broken_answer()
end
local over, keys = {}, {}
for i, id in ipairs(ARGV) do
  local k = 2 + (i - 1) * 3
  local state = fields(KEYS[k + 1], 'state')[1]
  broken = nil
  if state ~= 'queued' and state ~= 'running' then
    over[#over + 1] = id
    for j = 1, 3 do
      keys[#keys + 1] = KEYS[k + j]
    end
  end
end

if #over > 0 then
  redis.call('ZREM', KEYS[1], unpack(over))
  redis.call('ZREM', KEYS[2], unpack(over))
  redis.call('DEL', unpack(keys))
end
return #over
