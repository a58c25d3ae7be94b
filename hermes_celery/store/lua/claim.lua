-- Take the right to run one queued run.
--
-- KEYS  1 run   2 job   3 active: runs of the job   4 queued: all queued runs   5 heartbeats
--       6 stdout   7 stderr: what an earlier attempt left there goes
-- ARGV  1 token: of the claim   2 now_ms   3 deadline_ms: when the claim dies without a heartbeat
--       4 worker: its name   5 run_id   6 message: Celery id of the one that asks ('' = an older
--       program's)   7 hop: how often the run's own tasks have sent that message on
-- Answers  'ok', the job's spec, attempt, queue ('' = the default one)
--          'taken' and the run's state (somebody runs it or has run it, or it was handed on and goes
--          on with another message)
--          'sent' (published and over for us; this message is the first one that is not executed
--          elsewhere: the caller executes it, and reports nothing)
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
-- A claim whose answer was lost on the way is asked for again: same token, same answer.
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
  -- A copy of the message that has handed it on.
  return {'taken', run[1]}
end
-- The run starts from the beginning: a retry that was given up comes after all.
if run[10] and string.find(run[10], ' ' .. ARGV[6] .. ' ', 1, true) then
  return {'taken', run[1]}
end
-- The first attempt is not on record.
local attempt = run[3] and whole(KEYS[1], 'attempt', run[3]) or 1
-- What was handed on had begun in time.
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
-- Most runs have one message, with their own id, and it is sent on by nobody.
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
