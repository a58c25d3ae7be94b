-- Move a job to another namespace in one step: its record, its index entries, its unfinished runs
-- and its incidents. A paused record without index entries stays behind and expires: a program of
-- version 0.1.0 that comes back finds its job there, paused, and does not declare it again. The
-- record's field `moved` holds the revision. If somebody writes the job again, the revision rises,
-- and the job counts as a normal job.
--
-- KEYS  1 job hash   2 due index   3 all jobs   4 names   5 completed jobs   6 jobs whose history grew
--       7 number of shards   8 active runs   9 held runs   10 all runs   11 runs by job
--       12 queued runs   13 heartbeats   14 deliveries   15 open incidents   16 the job's incidents
--       17 the ids that its manager manages
--       18-34 the same in the target namespace   35 mark of the target namespace
--       then for each run: run hash, stdout, stderr, delivery, and the same four in the target
--       then for each incident: its hash, and the same in the target
-- ARGV  1 job id   2 revision seen   3 name index entry   4 now_ms   5 wake channel of the target
--       6 number of shards for which the due index was chosen   7 the same in the target
--       8 queue of runs without a queue of their own   9 '1' if somebody manages it
--       10 why it is paused   11 seconds until the remaining record expires
--       12 mark, for a target without one   13 number of runs, their ids
--       then the ids of the incidents
-- Answers  'ok'
--          'running' (a worker executes one of its runs: nothing changed)
--          'there' (the target has this job already: here it is paused now, without index entries)
--          'busy' (it has changed since it was read: try again; nothing changed)
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
--#include _moving
local id, other = ARGV[1], 17
if (ask('GET', KEYS[7]) or '1') ~= ARGV[6] or (ask('GET', KEYS[24]) or '1') ~= ARGV[7] then
  return broken and broken_answer() or 'busy'
end
local job = fields(KEYS[1], 'revision', 'state', 'next_ms', 'spec')
if not broken and redis.call('EXISTS', KEYS[1]) == 1 then
  -- The remaining record, and the entry in the target's due index, are written from these fields.
  for place, name in pairs({[1] = 'revision', [4] = 'spec'}) do
    if not job[place] then
      is_broken(KEYS[1], 'has no ' .. name)
    end
  end
  whole(KEYS[1], 'revision', job[1])
  whole(KEYS[1], 'next_ms', job[3])
end
if not broken and (job[1] or '') ~= ARGV[2] then
  return 'busy'
end
for _, first in ipairs({0, other}) do
  for _, index in ipairs({2, 3, 4, 5, 10, 11, 12, 13, 14, 15}) do
    check('ZCARD', KEYS[first + index])
  end
  for _, index in ipairs({6, 16, 17}) do
    check('SCARD', KEYS[first + index])
  end
  check('HLEN', KEYS[first + 8])
  check('LLEN', KEYS[first + 9])
end
local there = fields(KEYS[other + 1], 'revision', 'moved')
local runs = tonumber(ARGV[13])
local incidents = #ARGV - 13 - runs
local active = {}
if not broken then
  if redis.call('ZLEXCOUNT', KEYS[11], '[' .. id .. '-', '[' .. id .. '.') ~= runs or
      redis.call('SCARD', KEYS[16]) ~= incidents then
    return 'busy'
  end
  active = redis.call('HGETALL', KEYS[8])
  for i = 1, #active, 2 do
    local dies_ms = active[i + 1] == 'running' and redis.call('ZSCORE', KEYS[13], active[i])
    if dies_ms and tonumber(dies_ms) > tonumber(ARGV[4]) then
      return 'running'
    end
  end
end
for i = 1, runs do
  fields(KEYS[36 + (i - 1) * 8], 'state')
end
if broken then
  return broken_answer()
end

local function leave_behind()
  redis.call('ZREM', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
  redis.call('ZREM', KEYS[4], ARGV[3])
  redis.call('ZREM', KEYS[5], id)
  redis.call('SREM', KEYS[6], id)
  if ARGV[9] == '1' then
    redis.call('SREM', KEYS[17], id)
  end
  redis.call('HSET', KEYS[1], 'spec', job[4], 'revision', job[1], 'state', 'paused',
    'paused_ms', ARGV[4], 'paused_reason', ARGV[10], 'moved', job[1])
  redis.call('HDEL', KEYS[1], 'next_ms')
  redis.call('EXPIRE', KEYS[1], ARGV[11])
end

if there[1] and there[1] ~= there[2] then
  leave_behind()
  return 'there'
end
move_scored(KEYS[3], KEYS[other + 3], id)
move_scored(KEYS[5], KEYS[other + 5], id)
redis.call('ZADD', KEYS[other + 4], 0, ARGV[3])
if ARGV[9] == '1' then
  redis.call('SADD', KEYS[other + 17], id)
end
redis.call('SADD', KEYS[other + 6], id)
redis.call('SETNX', KEYS[35], ARGV[12])
for i = 1, runs do
  local run, run_id = 36 + (i - 1) * 8, ARGV[13 + i]
  if redis.call('EXISTS', KEYS[run]) == 1 then
    -- Its message stays on its queue, which is not the target's default queue.
    redis.call('HSETNX', KEYS[run], 'queue', ARGV[8])
  end
  move_run_keys(run)
  for index = 10, 14 do
    move_scored(KEYS[index], KEYS[other + index], run_id)
  end
end
move_key(KEYS[8], KEYS[other + 8])
move_key(KEYS[9], KEYS[other + 9])
for i = 1, incidents do
  local k = 36 + runs * 8 + (i - 1) * 2
  move_key(KEYS[k], KEYS[k + 1])
  move_scored(KEYS[15], KEYS[other + 15], ARGV[13 + runs + i])
end
move_key(KEYS[16], KEYS[other + 16])
move_key(KEYS[1], KEYS[other + 1])
leave_behind()
if job[2] == 'scheduled' and job[3] then
  redis.call('ZADD', KEYS[other + 2], job[3], id)
  redis.call('PUBLISH', ARGV[5], id)
end
return 'ok'
