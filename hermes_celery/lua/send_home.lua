-- Move a job's entry from one shard of the due index to another, as the job says itself.
--
-- KEYS  1 job hash   2 the index that it is in   3 the index that it belongs to
-- ARGV  1 job id
-- Answers  'ok'
local job = redis.call('HMGET', KEYS[1], 'state', 'next_ms')
redis.call('ZREM', KEYS[2], ARGV[1])
if job[1] == 'scheduled' and job[2] then
  redis.call('ZADD', KEYS[3], job[2], ARGV[1])
end
return 'ok'
