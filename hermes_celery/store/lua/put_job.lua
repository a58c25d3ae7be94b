-- Create a job, or change it unless somebody else changed it meanwhile. Ticks and runs go on during
-- an edit, so fields that the edit does not touch keep their current value, not the value read
-- before.
--
-- KEYS  1 job   2 due: the due index   3 jobs: all of them   4 names   5 mark: of the namespace
--       6 shards: their number   7 completed: jobs
-- ARGV  1 job_id   2 revision: the expected one ('' = the job must not exist)   3 created_ms
--       4 entry: in the index of names   5 old_entry: the one until now ('' = none)
--       6 wake: the channel   7 new_mark: for a namespace without one
--       8 seen_shards: the number of shards for which the due index was chosen
--       9 completed_ms: now, if this write completes the job, else ''
--       10 seen_next_ms: next_ms as it was read ('' = none), '*' to skip this comparison: if a tick
--       has advanced the job meanwhile, a new schedule would run the same occurrence again
--       11 seen_state: the state as it was read, '*' to skip this comparison: a run's end may have
--       paused or completed the job meanwhile, and a tick may have taken it off the schedule
--       then fields of the hash and their values, with `state` and `next_ms` if they change; the
--       value '' removes a field
-- Answers  'ok' and the new revision, 'conflict' (another revision, exists already, is gone, or a tick
--          or a run's end changed it),
--          'resharded' (the number of shards has changed: choose the due index again; nothing changed),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local shards = ask('GET', KEYS[6]) or '1'
if not broken and shards ~= ARGV[8] then
  -- No beat may tick the due index that the caller chose.
  return {'resharded', shards}
end
local id = ARGV[1]
local following = string.format('%.0f', (tonumber(ARGV[2]) or 0) + 1)
local job = fields(KEYS[1], 'revision', 'state', 'next_ms', 'moved')
-- The remaining record of a job that moved to another namespace does not count as a job.
local moved = job[4] and job[4] == job[1]
if moved then
  job = {}
end

-- Return whether the job already is as this call would write it: then the call is a repetition,
-- because its answer was lost. Fields that ticks and runs write may have changed since.
local function is_done()
  local ours = {spec = true, state = true, paused_ms = true, paused_reason = true}
  for i = 12, #ARGV, 2 do
    if ours[ARGV[i]] and (redis.call('HGET', KEYS[1], ARGV[i]) or '') ~= ARGV[i + 1] then
      return false
    end
  end
  return true
end

if not broken and (job[1] or '') ~= ARGV[2] then
  if job[1] == following and is_done() then
    return {'ok', following}
  end
  return {'conflict'}
end
local function is_as_seen(value, seen)
  return seen == '*' or (value or '') == seen
end
if not broken and not (is_as_seen(job[3], ARGV[10]) and is_as_seen(job[2], ARGV[11])) then
  return {'conflict'}
end
check('ZCARD', KEYS[2])
check('ZCARD', KEYS[3])
check('ZCARD', KEYS[4])
check('ZCARD', KEYS[7])
local set, gone = {'revision', following}, {}
local state, next_ms = job[2], job[3]
for i = 12, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  if name == 'state' then
    state = value
  elseif name == 'next_ms' then
    next_ms = value ~= '' and value
  end
  if value == '' then
    gone[#gone + 1] = name
  else
    set[#set + 1] = name
    set[#set + 1] = value
  end
end
next_ms = whole(KEYS[1], 'next_ms', next_ms)
if broken then
  return broken_answer()
end

if moved then
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], unpack(set))
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
end
redis.call('SETNX', KEYS[5], ARGV[7])
redis.call('ZADD', KEYS[3], ARGV[3], id)
if ARGV[5] ~= '' and ARGV[5] ~= ARGV[4] then
  redis.call('ZREM', KEYS[4], ARGV[5])
end
redis.call('ZADD', KEYS[4], 0, ARGV[4])
if state == 'scheduled' and next_ms then
  redis.call('ZADD', KEYS[2], string.format('%.0f', next_ms), id)
  -- The beat sleeps until the earliest instant that it knows: wake it for an earlier one.
  if redis.call('ZRANK', KEYS[2], id) == 0 then
    redis.call('PUBLISH', ARGV[6], id)
  end
else
  redis.call('ZREM', KEYS[2], id)
end
if ARGV[9] ~= '' then
  redis.call('ZADD', KEYS[7], ARGV[9], id)
end
return {'ok', following}
