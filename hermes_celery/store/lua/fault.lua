-- Take an unplannable job off the schedule, so that it does not fail at every tick.
--
-- KEYS  1 term   2 job   3 due: the due index   4 sweep: notes for incidents
-- ARGV  1 token: of the leader   2 job_id   3 revision: as it was read ('' = it has none)   4 error
--       5 field: of the note   6 note: what to report
-- Answers  'ok', 'gone' (no such job: its entry in the due index is removed),
--          'moved' (it was changed since it was read: the next tick reads it again), 'fenced',
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local token = ask('GET', KEYS[1])
if not broken and token ~= ARGV[1] then
  return 'fenced'
end
check('ZCARD', KEYS[3])
check('HLEN', KEYS[4])
local job = fields(KEYS[2], 'revision')
if broken then
  return broken_answer()
end

if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('ZREM', KEYS[3], ARGV[2])
  return 'gone'
end
if (job[1] or '') ~= ARGV[3] then
  return 'moved'
end
-- The note comes first: if a full server refuses it, nothing has changed.
redis.call('HSET', KEYS[4], ARGV[5], ARGV[6])
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('HSET', KEYS[2], 'state', 'error', 'last_status', 'error', 'last_error', ARGV[4])
return 'ok'
