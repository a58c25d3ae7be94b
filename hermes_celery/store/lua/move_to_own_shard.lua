-- Move a job's entry from a wrong shard of the due index to its own, with the job's own due time.
--
-- KEYS  1 job   2 source: the index that has the entry   3 home: the index of the job's shard
-- ARGV  1 job_id
-- Answers  'ok', or 'broken', a key and what is wrong with it (nothing changed)
local function broken(key, wanted)
  local kind = redis.call('TYPE', key)['ok']
  if kind ~= wanted and kind ~= 'none' then
    return {'broken', key, 'is a ' .. kind .. ', not a ' .. wanted}
  end
end

local trouble = broken(KEYS[1], 'hash') or broken(KEYS[2], 'zset') or broken(KEYS[3], 'zset')
if trouble then
  return trouble
end
local job = redis.call('HMGET', KEYS[1], 'state', 'next_ms')
local next_ms = job[1] == 'scheduled' and job[2]
if next_ms and not string.match(next_ms, '^%-?%d+$') then
  return {'broken', KEYS[1], 'has a next_ms that is not a number'}
end
redis.call('ZREM', KEYS[2], ARGV[1])
if next_ms then
  redis.call('ZADD', KEYS[3], next_ms, ARGV[1])
end
return 'ok'
