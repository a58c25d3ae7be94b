-- End a run early: at once if it waits, by its runner's next heartbeat if it runs.
--
-- KEYS  1 run   2 job   3 active: runs of the job   4 queued: all queued runs
--       5 held: runs of the job   6 due: the due index   7 completed: jobs   8 queue: of Celery
--       9 term   10 deliveries
-- ARGV  1 run_id   2 now_ms   3 reason: '' = none   4 state: the final state of a waiting run
--       5 redeliver_at_ms: when to push a run again that is queued now
--       6 token: of the leader that asks ('' = a person or a worker asks)
--       7 error: '' = none; with an error people are notified
--       8 when_running: for a running run, 'ask' (its runner ends it) or 'leave'
--       9 attempt: the attempt whose message was dropped; a run that waits for another message by
--         now is left alone ('' = end the run whatever message it waits for)
--       10 hop: how often the run's own tasks had handed that message on
-- Answers  'cancelled' (it waited, and has ended), 'asked' (its runner ends it),
--          'over' (it had ended, or is left alone), 'gone' (no such run), 'fenced' (a younger leader
--          is known), 'broken', a key and what is wrong with it (nothing changed)
--#include _end_run
if ARGV[6] ~= '' then
  local token = ask('GET', KEYS[9])
  if not broken and token ~= ARGV[6] then
    return 'fenced'
  end
end
local run = fields(KEYS[1], 'state', 'attempt', 'unpushed', 'handed_on', 'handed_hop', 'hop')
local state = run[1]
local handed_hop = whole(KEYS[1], 'handed_hop', run[5], 0)
local hop = whole(KEYS[1], 'hop', run[6], 0)

-- Return whether the run waits for another message than the dropped one.
local function waits_for_another()
  local sent_on = tonumber(ARGV[10])
  if (run[2] or '1') ~= ARGV[9] then
    return true
  elseif run[4] then
    return handed_hop > sent_on
  end
  return run[3] and not (sent_on > 0 and sent_on >= hop)
end

if broken then
  return broken_answer()
elseif not state then
  return 'gone'
elseif state == 'running' and ARGV[8] == 'ask' then
  redis.call('HSETNX', KEYS[1], 'cancel', ARGV[3])
  return 'asked'
elseif state ~= 'queued' then
  return 'over'
elseif ARGV[9] ~= '' and waits_for_another() then
  return 'over'
end
local at = {run = KEYS[1], job = KEYS[2], active = KEYS[3], held = KEYS[5], due = KEYS[6],
  queued = KEYS[4], completed = KEYS[7], queue = KEYS[8]}
local is_active = ask('HEXISTS', KEYS[3], ARGV[1])
-- No run waits for a held run, so its end pushes nothing.
local found, held = nil, {}
check('ZCARD', KEYS[4])
if ARGV[7] ~= '' then
  check('ZCARD', KEYS[10])
end
if is_active == 1 then
  found = look_at_end(at)
else
  for _, entry in ipairs(ask('LRANGE', KEYS[5], 0, -1) or {}) do
    if string.sub(entry, 1, #ARGV[1] + 1) == ARGV[1] .. '\0' then
      held[#held + 1] = entry
    end
  end
end
if broken then
  return broken_answer()
end

redis.call('HSET', KEYS[1], 'state', ARGV[4], 'finished_ms', ARGV[2])
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'reason', ARGV[3])
end
redis.call('ZREM', KEYS[4], ARGV[1])
local status = ARGV[4]
if ARGV[7] ~= '' then
  status = 'error'
  redis.call('HSET', KEYS[1], 'error', ARGV[7], 'delivery', 'pending')
  -- The next pass of rescue pushes its message.
  redis.call('ZADD', KEYS[10], ARGV[2], ARGV[1])
end
if found then
  end_run(at, {id = ARGV[1], now = ARGV[2], status = status, problem = ARGV[7],
    redeliver_at = ARGV[5]}, found)
end
for _, entry in ipairs(held) do
  redis.call('LREM', KEYS[5], 1, entry)
end
return 'cancelled'
