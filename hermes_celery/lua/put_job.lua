-- Write a job: create it, or change it if nobody else did meanwhile.
--
-- KEYS  1 job hash   2 due index   3 all jobs   4 names   5 mark of the namespace
-- ARGV  1 job id   2 expected revision ('' = must not exist)   3 created_ms   4 name index entry
--       5 next_ms ('' = none)   6 state   7 wake channel   8 mark, if there is none yet   9.. more fields of the hash and their
--       values; a value '' removes the field
-- Answers  'ok' and the new revision, 'conflict' (another revision, or exists, or is gone)
local revision = redis.call('HGET', KEYS[1], 'revision')
if (revision or '') ~= ARGV[2] then
  return {'conflict'}
end
local id, next_ms, state = ARGV[1], ARGV[5], ARGV[6]
local old_name = redis.call('HGET', KEYS[1], 'name_entry')
if old_name and old_name ~= ARGV[4] then
  redis.call('ZREM', KEYS[4], old_name)
end
local following = tostring((tonumber(revision) or 0) + 1)
redis.call('HSET', KEYS[1], 'revision', following, 'state', state, 'name_entry', ARGV[4])
redis.call('SETNX', KEYS[5], ARGV[8])
for i = 9, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
if next_ms == '' then
  redis.call('HDEL', KEYS[1], 'next_ms')
else
  redis.call('HSET', KEYS[1], 'next_ms', next_ms)
end
redis.call('ZADD', KEYS[3], ARGV[3], id)
redis.call('ZADD', KEYS[4], 0, ARGV[4])
if next_ms ~= '' and state == 'scheduled' then
  redis.call('ZADD', KEYS[2], next_ms, id)
  -- The beat sleeps until the earliest instant it knows: tell it of an earlier one.
  if redis.call('ZRANK', KEYS[2], id) == 0 then
    redis.call('PUBLISH', ARGV[7], id)
  end
else
  redis.call('ZREM', KEYS[2], id)
end
return {'ok', following}
