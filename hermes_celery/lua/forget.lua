-- Forget runs that are over: record, output and index entries. A run that is not over stays.
--
-- KEYS  1 all runs   2 runs by job, then for each run: run hash, stdout, stderr
-- ARGV  the id of each run
-- Answers  how many were forgotten
local forgotten = 0
for i, id in ipairs(ARGV) do
  local k = 2 + (i - 1) * 3
  local state = redis.call('HGET', KEYS[k + 1], 'state')
  if state ~= 'queued' and state ~= 'running' then
    redis.call('ZREM', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
    redis.call('DEL', KEYS[k + 1], KEYS[k + 2], KEYS[k + 3])
    forgotten = forgotten + 1
  end
end
return forgotten
