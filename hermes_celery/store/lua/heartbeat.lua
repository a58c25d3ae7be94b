-- Extend the claims of running runs, append their new output, and answer whether to go on.
--
-- KEYS  1 heartbeats, then for each run: run hash, stdout, stderr, concurrency group
-- ARGV  1 when the claims expire without another heartbeat, ms, then for each run: run id,
--       claim token, new stdout, new stderr
-- Answers  one word for each run: 'ok', 'cancel' (end it), 'lost' (the claim was lost),
--          'broken' (one of its keys is broken: its output was not kept; the run goes on);
--          or for all 'broken', a key and what is wrong with it (nothing changed)
--#include _checked
check('ZCARD', KEYS[1])
if broken then
  return broken_answer()
end
local answers = {}
for i = 1, (#KEYS - 1) / 4 do
  local k, a = 2 + (i - 1) * 4, 2 + (i - 1) * 4
  local run = fields(KEYS[k], 'state', 'claim', 'cancel')
  check('ZCARD', KEYS[k + 3])
  for stream = 1, 2 do
    if ARGV[a + 1 + stream] ~= '' then
      check('STRLEN', KEYS[k + stream])
    end
  end
  if broken then
    answers[i] = 'broken'
    -- If the run's own record is valid, keep the claim alive.
    if run[1] == 'running' and run[2] == ARGV[a + 1] then
      redis.call('ZADD', KEYS[1], ARGV[1], ARGV[a])
      answers[i] = run[3] and 'cancel' or 'broken'
    end
    broken = nil
  elseif run[1] ~= 'running' or run[2] ~= ARGV[a + 1] then
    answers[i] = 'lost'
  else
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[a])
    redis.call('ZADD', KEYS[k + 3], 'XX', ARGV[1], ARGV[a])
    for stream = 1, 2 do
      if ARGV[a + 1 + stream] ~= '' then
        redis.call('APPEND', KEYS[k + stream], ARGV[a + 1 + stream])
      end
    end
    answers[i] = run[3] and 'cancel' or 'ok'
  end
end
return answers
