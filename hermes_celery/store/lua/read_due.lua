-- Read the fields that a tick needs of many jobs, in one answer.
--
-- KEYS  the job hashes
-- ARGV  none
-- Answers  for each job four values: its spec, revision, next_ms and count of runs (false for a
--          missing field); or, for a key of another type: 'broken', false, what is wrong, false
local answer = {}
for i, job in ipairs(KEYS) do
  local row = redis.pcall('HMGET', job, 'spec', 'revision', 'next_ms', 'completed')
  if row['err'] then
    row = {'broken', false, 'is a ' .. redis.call('TYPE', job)['ok'] .. ', not a hash', false}
  end
  for field = 1, 4 do
    answer[(i - 1) * 4 + field] = row[field]
  end
end
return answer
