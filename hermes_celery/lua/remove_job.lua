-- Remove a job and every trace of it in the indexes; its runs stay, as history.
--
-- KEYS  1 job hash   2 due index   3 all jobs   4 names
-- ARGV  1 job id   2 expected revision   3 name index entry
-- Answers  'ok', 'conflict' (another revision, or gone already)
if redis.call('HGET', KEYS[1], 'revision') ~= ARGV[2] then
  return 'conflict'
end
redis.call('ZREM', KEYS[4], ARGV[3])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[1])
return 'ok'
