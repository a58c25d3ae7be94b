-- Keep an undecodable message, and count it for its run.
--
-- KEYS  1 letters: list, newest first   2 total: counter of all letters ever   3 run
-- ARGV  1 letter   2 kept: how many letters are kept   3 run_id: '' = it could not be read
-- Answers  the number of letters of the run while it waits (0 = no run, or it does not wait), or
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
check('LLEN', KEYS[1])
local total = whole(KEYS[2], 'a value', ask('GET', KEYS[2]), 0)
local run, is_waiting = {}, false
if ARGV[3] ~= '' then
  run = fields(KEYS[3], 'state', 'letters')
  is_waiting = run[1] == 'queued'
end
local letters = whole(KEYS[3], 'letters', run[2], 0)
if broken then
  return broken_answer()
end

redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, tonumber(ARGV[2]) - 1)
-- SET, because INCR refuses a number with leading zeros.
redis.call('SET', KEYS[2], string.format('%d', total + 1))
if not is_waiting then
  return 0
end
redis.call('HSET', KEYS[3], 'letters', string.format('%d', letters + 1))
return letters + 1
