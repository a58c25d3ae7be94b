-- Record a run's end, or queue its next attempt.
--
-- KEYS  1 run   2 job   3 active: runs of the job   4 heartbeats   5 stdout   6 stderr
--       7 held: runs of the job   8 due: the due index   9 queued: all queued runs
--       10 completed: jobs   11 queue: of Celery   12 deliveries
--       13 incidents: open ones of the job   14 delivery_queue: of Celery
-- ARGV  1 token: of the claim   2 now_ms   3 run_id   4 state: the final one   5 error   6 reason
--       7 exit_code   8 delivery: its state   9 stdout   10 stderr
--       11 retry_at_ms: when to try again ('' = this was the last attempt)
--       12 redeliver_at_ms: when to push a run again that is queued now
--       13 message: of its delivery ('' = none: the leader pushes it)
--       14 is_needed: '1' to deliver in any case; '0' to deliver only if the job has incidents to
--       close, and only with a message
-- Answers  'ok', 'retry' (queued for its next attempt),
--          'late' (the claim was lost: nothing changed),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _end_run
local run = fields(KEYS[1], 'state', 'claim', 'cancel', 'finished_by', 'attempt')
if not broken and run[4] == ARGV[1] then
  -- This claim has finished the run before, but the answer was lost.
  return run[1] == 'queued' and 'retry' or 'ok'
end
if not broken and (run[1] ~= 'running' or run[2] ~= ARGV[1]) then
  return 'late'
end
local attempt = whole(KEYS[1], 'attempt', run[5], 1)
local at = {run = KEYS[1], job = KEYS[2], active = KEYS[3], held = KEYS[7], due = KEYS[8],
  queued = KEYS[9], completed = KEYS[10], queue = KEYS[11]}
local is_retry = ARGV[11] ~= '' and not run[3]
local found, delivers = nil, false
check('ZCARD', KEYS[4])
if is_retry then
  check('HLEN', KEYS[3])
  check('ZCARD', KEYS[9])
else
  found = look_at_end(at)
  delivers = ARGV[14] == '1' or (ARGV[13] ~= '' and ARGV[4] == 'succeeded' and
    redis.call('EXISTS', KEYS[13]) == 1)
  if delivers then
    check('ZCARD', KEYS[12])
    if ARGV[13] ~= '' then
      check('LLEN', KEYS[14])
    end
  end
end
if broken then
  return broken_answer()
end

local set = {'finished_by', ARGV[1], 'output_bytes', #ARGV[9]}
local gone = {}
for i, field in ipairs({'error', 'reason', 'exit_code'}) do
  if ARGV[4 + i] ~= '' then
    set[#set + 1] = field
    set[#set + 1] = ARGV[4 + i]
  elseif attempt > 1 then
    gone[#gone + 1] = field
  end
end
local empty = {}
for i = 9, 10 do
  if ARGV[i] ~= '' then
    redis.call('SET', KEYS[i - 4], ARGV[i])
  else
    empty[#empty + 1] = KEYS[i - 4]
  end
end
if #empty > 0 then
  redis.call('DEL', unpack(empty))
end
redis.call('ZREM', KEYS[4], ARGV[3])
if is_retry then
  gone[#gone + 1] = 'claim'
  redis.call('HSET', KEYS[1], 'state', 'queued', 'queued_ms', ARGV[2], 'unpushed', 'next',
    'attempt', string.format('%d', attempt + 1), unpack(set))
  redis.call('HDEL', KEYS[1], unpack(gone))
  redis.call('HSET', KEYS[3], ARGV[3], 'retrying')
  redis.call('ZADD', KEYS[9], ARGV[11], ARGV[3])
  return 'retry'
end
if ARGV[4] == 'cancelled' and run[3] then
  set[#set + 1] = 'reason'
  set[#set + 1] = run[3]
end
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
end
redis.call('HSET', KEYS[1], 'state', ARGV[4], 'finished_ms', ARGV[2], 'delivery', ARGV[8],
  unpack(set))
end_run(at, {id = ARGV[3], now = ARGV[2], problem = ARGV[5], redeliver_at = ARGV[12],
  status = ({succeeded = 'ok', cancelled = 'cancelled'})[ARGV[4]] or 'error'}, found)
if delivers then
  redis.call('ZADD', KEYS[12], ARGV[12], ARGV[3])
  if ARGV[13] ~= '' then
    redis.call('LPUSH', KEYS[14], ARGV[13])
  end
end
return 'ok'
