-- Give a claim back: the run waits in line again.
--
-- KEYS  1 run hash   2 active runs of the job   3 queued runs   4 heartbeats
-- ARGV  1 claim token   2 run id   3 when its message is pushed again, ms
-- Answers  'ok', 'late' (the claim is no longer ours: nothing changed),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _put_back
local run = fields(KEYS[1], 'state', 'claim')
if not broken and (run[1] ~= 'running' or run[2] ~= ARGV[1]) then
  return 'late'
end
local at = {run = KEYS[1], active = KEYS[2], queued = KEYS[3], heartbeats = KEYS[4]}
check_put_back(at)
if broken then
  return broken_answer()
end

put_back(at, ARGV[2], ARGV[3])
return 'ok'
