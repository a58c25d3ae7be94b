-- Add jobs to the set of the jobs that their manager declares, if they are missing there.
--
-- KEYS  1 jobs: all of them   2 managed: the manager's set
-- ARGV  1 '1' to write, '' only to find, then the ids of jobs whose definition names the manager
-- Answers  the ids that were missing; none if one of the keys has another type, and without the
--          jobs that were removed meanwhile
local missing, members = {}, {}
local kind = redis.call('TYPE', KEYS[2])['ok']
if kind ~= 'set' and kind ~= 'none' then
  return missing
end
for _, id in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  members[id] = true
end
for i = 2, #ARGV do
  if not members[ARGV[i]] and type(redis.pcall('ZSCORE', KEYS[1], ARGV[i])) == 'string' then
    missing[#missing + 1] = ARGV[i]
    if ARGV[1] == '1' then
      redis.call('SADD', KEYS[2], ARGV[i])
    end
  end
end
return missing
