-- Remove a job and all its index entries; its runs stay, as history.
--
-- KEYS  1 job   2 due: the due index   3 jobs: all of them   4 names
-- ARGV  1 job_id   2 revision: the expected one ('*' = any, even if the key has another type)
--       3 entry: in the index of names ('' = unknown)
-- Answers  'ok', 'conflict' (another revision, or gone already),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
if ARGV[2] ~= '*' then
  local revision = ask('HGET', KEYS[1], 'revision')
  if not broken and revision ~= ARGV[2] then
    return 'conflict'
  end
elseif redis.call('EXISTS', KEYS[1]) == 0 then
  return 'conflict'
end
check('ZCARD', KEYS[2])
check('ZCARD', KEYS[3])
check('ZCARD', KEYS[4])
if broken then
  return broken_answer()
end

if ARGV[3] ~= '' then
  redis.call('ZREM', KEYS[4], ARGV[3])
end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[1])
return 'ok'
