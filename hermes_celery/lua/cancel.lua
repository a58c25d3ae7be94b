-- Ask for a run's end: at once if it waits, by its runner's next heartbeat if it runs.
--
-- KEYS  1 run hash   2 job hash   3 active runs of the job   4 queued runs   5 held runs of the job
--       6 due index   7 completed jobs   8 Celery queue   9 term counter
-- ARGV  1 run id   2 now_ms   3 reason   4 state that a waiting run ends in
--       5 when to push a run again that is queued now, ms
--       6 fencing token of the leader that asks ('' = a person or a worker does)
-- Answers  'cancelled' (it never started), 'asked' (its runner ends it), 'over' (it had ended),
--          'gone' (no such run), 'fenced' (an older leader),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _end_run
if ARGV[6] ~= '' then
  local token = ask('GET', KEYS[9])
  if not broken and token ~= ARGV[6] then
    return 'fenced'
  end
end
local state = ask('HGET', KEYS[1], 'state')
if broken then
  return broken_answer()
elseif not state then
  return 'gone'
elseif state == 'running' then
  redis.call('HSETNX', KEYS[1], 'cancel', ARGV[3])
  return 'asked'
elseif state ~= 'queued' then
  return 'over'
end
local at = {run = KEYS[1], job = KEYS[2], active = KEYS[3], held = KEYS[5], due = KEYS[6],
  queued = KEYS[4], completed = KEYS[7], queue = KEYS[8]}
local is_active = ask('HEXISTS', KEYS[3], ARGV[1])
-- What was held back behind another run is waited for by nobody.
local found, held = nil, {}
check('ZCARD', KEYS[4])
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

redis.call('HSET', KEYS[1], 'state', ARGV[4], 'finished_ms', ARGV[2], 'reason', ARGV[3])
redis.call('ZREM', KEYS[4], ARGV[1])
if found then
  end_run(at, {id = ARGV[1], now = ARGV[2], status = ARGV[4], problem = '',
    redeliver_at = ARGV[5]}, found)
end
for _, entry in ipairs(held) do
  redis.call('LREM', KEYS[5], 1, entry)
end
return 'cancelled'
