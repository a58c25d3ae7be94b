-- Move ended runs of a job to another namespace, with their output and delivery. It is safe to
-- repeat. An unfinished run stays: it moves with its job (`move_job.lua`).
--
-- KEYS  1 all runs   2 runs by job   3 deliveries   4 jobs whose history grew
--       5-8 the same in the target namespace, then for each run: run hash, stdout, stderr, delivery,
--       and the same four in the target namespace
-- ARGV  1 job id, then the id of each run
-- Answers  the number of runs that stay because they have not ended,
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
--#include _moving
for i = 1, 7 do
  if i ~= 4 then
    check('ZCARD', KEYS[i])
  end
end
check('SCARD', KEYS[4])
check('SCARD', KEYS[8])
local left, over = 0, {}
for i = 2, #ARGV do
  local k = 9 + (i - 2) * 8
  local state = fields(KEYS[k], 'state')[1]
  if state == 'queued' or state == 'running' then
    left = left + 1
  else
    over[#over + 1] = i
  end
end
if broken then
  return broken_answer()
end

for _, i in ipairs(over) do
  move_run_keys(9 + (i - 2) * 8)
  for index = 1, 3 do
    move_scored(KEYS[index], KEYS[4 + index], ARGV[i])
  end
end
if #over > 0 then
  redis.call('SADD', KEYS[8], ARGV[1])
end
return left
