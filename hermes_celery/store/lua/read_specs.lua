-- Read the definitions of many jobs, whatever is stored there.
--
-- KEYS  the job hashes
-- ARGV  none
-- Answers  for each job its spec, '' if it has none
local answer = {}
for i, job in ipairs(KEYS) do
  local spec = redis.pcall('HGET', job, 'spec')
  answer[i] = type(spec) == 'string' and spec or ''
end
return answer
