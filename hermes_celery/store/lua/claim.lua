-- Claim one queued run for execution.
--
-- KEYS  1 run   2 job   3 active: runs of the job   4 queued: all queued runs   5 heartbeats
--       6 stdout   7 stderr: the output of an earlier attempt is deleted
-- ARGV  1 token: of the claim   2 now_ms   3 deadline_ms: when the claim expires without a heartbeat
--       4 worker: its name   5 run_id   6 message: Celery id of the asking message ('' = from an
--       older program)   7 hop: how often the run's own tasks have handed that message on
-- Answers  'ok', the job's spec, attempt, queue ('' = the default one)
--          'taken' and the run's state (another worker runs it or has run it, or it was handed on and
--          continues with another message)
--          'sent' (the run has ended as sent; the first such message is executed by the caller, which
--          reports nothing)
--          'expired' (its lateness deadline passed: the caller ends it, see cancel.lua)
--          'removed' (the job is gone: the caller ends it, see cancel.lua)
--          'gone' (no such run)
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local run = fields(KEYS[1], 'state', 'claim', 'attempt', 'expires_ms', 'queue', 'sort',
  'handed_on', 'handed_hop', 'hop', 'outdated')
local handed_on = run[7]
if broken then
  return broken_answer()
elseif not run[1] then
  if redis.call('EXISTS', KEYS[1]) == 1 then
    is_broken(KEYS[1], 'has no state')
    return broken_answer()
  end
  return {'gone'}
end
-- If the answer was lost, the caller asks again with the same token and gets the same answer.
local again = run[1] == 'running' and run[2] == ARGV[1]
if run[6] == 'sent' and (not run[2] or run[2] == ARGV[1]) then
  redis.call('HSET', KEYS[1], 'claim', ARGV[1], 'worker', ARGV[4])
  return {'sent'}
end
if run[1] ~= 'queued' and not again then
  return {'taken', run[1]}
end
local handed_hop = whole(KEYS[1], 'handed_hop', run[8], 0)
local hop = whole(KEYS[1], 'hop', run[9], 0)
if handed_on and ARGV[6] ~= '' and (handed_on ~= ARGV[6] or handed_hop > tonumber(ARGV[7])) then
  -- The asking message is a copy of the one whose task handed the run on.
  return {'taken', run[1]}
end
-- The asking message is a retry that was given up; the run has started again without it.
if run[10] and string.find(run[10], ' ' .. ARGV[6] .. ' ', 1, true) then
  return {'taken', run[1]}
end
-- A run in its first attempt has no field `attempt`.
local attempt = run[3] and whole(KEYS[1], 'attempt', run[3]) or 1
-- The deadline does not apply to a run that was handed on: it began in time.
if run[4] and not again and not handed_on then
  local expires_ms = whole(KEYS[1], 'expires_ms', run[4])
  if not broken and expires_ms < tonumber(ARGV[2]) then
    return {'expired'}
  end
end
local spec = ask('HGET', KEYS[2], 'spec')
if not broken and not spec then
  return {'removed'}
end
check('HLEN', KEYS[3])
check('ZCARD', KEYS[4])
check('ZCARD', KEYS[5])
if broken then
  return broken_answer()
end

redis.call('ZREM', KEYS[4], ARGV[5])
redis.call('HSET', KEYS[1], 'state', 'running', 'claim', ARGV[1], 'started_ms', ARGV[2],
  'worker', ARGV[4])
if handed_on then
  redis.call('HDEL', KEYS[1], 'handed_on', 'handed_hop', 'retry_ms', 'patience_ms',
    'on_queue_ms', 'handed_queue')
end
-- Most runs have a single message, with the run's id, that is never handed on: then write nothing.
if ARGV[7] ~= '0' or hop > 0 then
  redis.call('HSET', KEYS[1], 'hop', string.format('%d', math.max(hop, tonumber(ARGV[7]))))
end
if ARGV[6] ~= '' and ARGV[6] ~= ARGV[5] then
  redis.call('HSET', KEYS[1], 'message', ARGV[6])
end
redis.call('HSET', KEYS[3], ARGV[5], 'running')
redis.call('ZADD', KEYS[5], ARGV[3], ARGV[5])
if attempt ~= 1 then
  redis.call('DEL', KEYS[6], KEYS[7])
end
return {'ok', spec, run[3] or '1', run[5] or ''}
