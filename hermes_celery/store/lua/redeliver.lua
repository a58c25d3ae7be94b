-- Push the message of a queued run again, because the first one may be lost. The claim makes a
-- second copy harmless, if the workers of its queue use claims.
--
-- KEYS  1 term   2 run   3 queued: all queued runs   4 queue: of Celery   5 job
--       6 active: runs of the job   7 held: runs of the job   8 due: the due index
--       9 completed: jobs
-- ARGV  1 token: of the leader ('' = a person asks)   2 run_id   3 seen_ms: the deadline seen
--       4 next_ms: the next deadline   5 message: '' = push none   6 now_ms
--       7 redeliver_at_ms: when to push a run again that is queued now
--       8 manner: '' to push another copy, 'look' to push one unless the message is still on the
--       queue, 'hesitate' only to report that it has left the queue
--       9 when_gone: reason to end the run as sent if its message has left the queue ('' = push it
--       again)
--       10 when_pushed: reason to end the run as sent after its first push ('' = it waits)
--       11 pushes: number of the run's messages that were pushed before this one
--       12 is_elsewhere: '1' if the project's own code has published the message, so that there is
--       none to push
-- Answers  'ok', 'waiting' (its message, or the message of every queued run, is on the queue: only
--          the deadline changes), 'gone' (its message has left the queue; nothing changed), 'empty'
--          (the same, and the queue is empty), 'sent' (ended: no worker reports it), 'moved'
--          (claimed, ended or pushed meanwhile), 'fenced' (a younger leader is known),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _end_run
--#include _sent
if ARGV[1] ~= '' then
  local token = ask('GET', KEYS[1])
  if not broken and token ~= ARGV[1] then
    return 'fenced'
  end
end
local deadline = ask('ZSCORE', KEYS[3], ARGV[2])
if not broken and (not deadline or tonumber(deadline) ~= tonumber(ARGV[3])) then
  return 'moved'
end
local run = fields(KEYS[2], 'state', 'unpushed', 'handed_on', 'outdated')
local backlog = ask('LLEN', KEYS[4])
local sent, found = run[2] and ARGV[10] or ARGV[9], nil
local at = {run = KEYS[2], job = KEYS[5], active = KEYS[6], held = KEYS[7], due = KEYS[8],
  queued = KEYS[3], completed = KEYS[9], queue = KEYS[4]}
if sent ~= '' then
  found = look_at_end(at)
end
if broken then
  return broken_answer()
end

-- A longer queue is not searched; then the message counts as waiting.
local MOST_LOOKED_AT, PAGE = 1000, 100

-- Return whether the run's message is on the queue; a message has the run's id in its headers.
local function is_there()
  if backlog > MOST_LOOKED_AT then
    return true
  end
  for first = 0, backlog - 1, PAGE do
    for _, message in ipairs(redis.call('LRANGE', KEYS[4], first, first + PAGE - 1)) do
      if string.find(message, ARGV[2], 1, true) then
        return true
      end
    end
  end
  return false
end

if run[1] ~= 'queued' then
  redis.call('ZREM', KEYS[3], ARGV[2])
  return 'moved'
end
local pushes_none = ARGV[5] == '' and ARGV[12] ~= '1'
-- The message of a handed-on run may be on the queue even if another one is to replace it.
local was_pushed = not run[2] or (run[3] and pushes_none)
-- With a long backlog the message is assumed to wait; copies would only make the queue longer.
local waits = was_pushed and ((backlog > 100 and backlog >= redis.call('ZCARD', KEYS[3])) or
  (ARGV[8] ~= '' and is_there()))
if not waits and sent == '' and (pushes_none or (ARGV[8] == 'hesitate' and not run[2])) then
  return backlog == 0 and 'empty' or 'gone'
end
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[2])
if waits then
  if run[3] then
    -- The worker that takes it has its full time from now on (see scheduling/run_rescue.py).
    redis.call('HSET', KEYS[2], 'on_queue_ms', ARGV[6])
  end
  return 'waiting'
end
if run[2] or sent == '' then
  redis.call('HDEL', KEYS[2], 'unpushed')
  if run[3] then
    -- From now on the awaited message must not claim the run too (see claim.lua).
    redis.call('HDEL', KEYS[2], 'handed_on', 'handed_hop', 'retry_ms', 'patience_ms',
      'on_queue_ms', 'handed_queue')
    redis.call('HSET', KEYS[2], 'outdated', (run[4] or ' ') .. run[3] .. ' ')
  end
  if ARGV[11] ~= '0' then
    -- The number of pushes determines the Celery id of the next message.
    redis.call('HSET', KEYS[2], 'pushes', ARGV[11])
  end
  if ARGV[12] ~= '1' then
    redis.call('LPUSH', KEYS[4], ARGV[5])
  end
  if run[2] then
    -- The queue may be known only after the message was built.
    redis.call('HSET', KEYS[2], 'queue', KEYS[4])
  end
end
if sent == '' then
  return 'ok'
end
redis.call('ZREM', KEYS[3], ARGV[2])
set_sent(KEYS[2], ARGV[6], sent)
end_run(at, {id = ARGV[2], now = ARGV[6], status = JOB_SENT, problem = '',
  redeliver_at = ARGV[7]}, found)
return 'sent'
