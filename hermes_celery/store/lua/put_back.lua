-- Return a claimed run to the queue.
--
-- KEYS  1 run   2 active: runs of the job   3 queued: all queued runs   4 heartbeats
-- ARGV  1 token: of the claim   2 run_id   3 ready_at_ms: when its message is pushed again
--       4 handed_on: Celery id of the message that the run was handed on with ('' = it was not); no
--         other message is pushed before ready_at_ms
--       5 hop: how often the message that continues the run was handed on, at least
--       6 retry_at_ms: for the task's own retry, when that message is to be executed, else ''
--       7 starts_again: '1' if another message is pushed at ready_at_ms all the same, '0' if the run
--         is lost then
--       8 queue: the list that the message was pushed to ('' = that of the run's first message)
-- Answers  'ok', 'late' (the claim was lost: nothing changed),
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

put_back(at, ARGV[2], ARGV[3], ARGV[4] ~= '' or ARGV[5] ~= '0')
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], 'handed_on', ARGV[4], 'handed_hop', ARGV[5])
  if ARGV[6] ~= '' then
    -- `patience_ms`: how long the message may take after retry_at_ms (see scheduling/run_rescue.py
    -- and core/reconciling_runs.py).
    redis.call('HSET', KEYS[1], 'retry_ms', ARGV[6], 'patience_ms',
      string.format('%d', tonumber(ARGV[3]) - tonumber(ARGV[6])))
  end
  if ARGV[8] ~= '' then
    redis.call('HSET', KEYS[1], 'handed_queue', ARGV[8])
  end
  if ARGV[7] ~= '1' then
    redis.call('HDEL', KEYS[1], 'unpushed')
  end
elseif ARGV[5] ~= '0' then
  redis.call('HSET', KEYS[1], 'hop', ARGV[5])
end
return 'ok'
