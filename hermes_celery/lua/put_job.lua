-- Write a job: create it, or change it if nobody else did meanwhile. Ticks and runs go on while
-- somebody edits, so what an edit does not touch stays as it is now, not as it was read.
--
-- KEYS  1 job hash   2 due index   3 all jobs   4 names   5 mark of the namespace
-- ARGV  1 job id   2 expected revision ('' = must not exist)   3 created_ms   4 name index entry
--       5 wake channel   6 mark, if there is none yet   7.. fields of the hash and their values,
--       `state` and `next_ms` among them where they change; a value '' removes the field
-- Answers  'ok' and the new revision, 'conflict' (another revision, or exists, or is gone)
local revision = redis.call('HGET', KEYS[1], 'revision')
if (revision or '') ~= ARGV[2] then
  return {'conflict'}
end
local id = ARGV[1]
local old_name = redis.call('HGET', KEYS[1], 'name_entry')
local following = tostring((tonumber(revision) or 0) + 1)
redis.call('HSET', KEYS[1], 'revision', following, 'name_entry', ARGV[4])
if old_name and old_name ~= ARGV[4] then
  redis.call('ZREM', KEYS[4], old_name)
end
redis.call('SETNX', KEYS[5], ARGV[6])
for i = 7, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
redis.call('ZADD', KEYS[3], ARGV[3], id)
redis.call('ZADD', KEYS[4], 0, ARGV[4])
local job = redis.call('HMGET', KEYS[1], 'state', 'next_ms')
if job[1] == 'scheduled' and job[2] then
  redis.call('ZADD', KEYS[2], job[2], id)
  -- The beat sleeps until the earliest instant it knows: tell it of an earlier one.
  if redis.call('ZRANK', KEYS[2], id) == 0 then
    redis.call('PUBLISH', ARGV[5], id)
  end
else
  redis.call('ZREM', KEYS[2], id)
end
return {'ok', following}
