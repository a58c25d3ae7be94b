-- Remove an unreadable job and all its index entries. Its record is quarantined, not deleted, so
-- that somebody can inspect it.
--
-- KEYS  1 job   2 jobs: all of them   3 names   4 aside: quarantine for the job's key
--       then the due indexes
-- ARGV  1 job_id   2 kind: type of the job's key as read
--       3 spec: its definition as read ('' = none)   then its entries in the index of names
-- Answers  'ok', 'conflict' (somebody changed or removed it meanwhile),
--          'broken', key, what is wrong (an index has another type: nothing changed)
local function type_of(key)
  return redis.call('TYPE', key)['ok']
end

local found = type_of(KEYS[1])
if found ~= ARGV[2] then
  return 'conflict'
elseif found == 'hash' and (redis.call('HGET', KEYS[1], 'spec') or '') ~= ARGV[3] then
  return 'conflict'
end
for k = 2, #KEYS do
  local kind = type_of(KEYS[k])
  if k ~= 4 and kind ~= 'zset' and kind ~= 'none' then
    return {'broken', KEYS[k], 'is a ' .. kind .. ', not a sorted set'}
  end
end
for i = 4, #ARGV do
  redis.call('ZREM', KEYS[3], ARGV[i])
end
redis.call('ZREM', KEYS[2], ARGV[1])
for k = 5, #KEYS do
  redis.call('ZREM', KEYS[k], ARGV[1])
end
if found ~= 'none' then
  redis.call('RENAME', KEYS[1], KEYS[4])
end
return 'ok'
