-- Read what a tick needs of many jobs, in one answer.
--
-- KEYS  the job hashes
-- ARGV  none
-- Answers  for each job four values: its spec, revision, next_ms and count of runs (false where it
--          has none)
local answer = {}
for i, job in ipairs(KEYS) do
  local row = redis.call('HMGET', job, 'spec', 'revision', 'next_ms', 'completed')
  for field = 1, 4 do
    answer[(i - 1) * 4 + field] = row[field]
  end
end
return answer
