-- End the incidents that happened last before something worked again.
--
-- KEYS  1 open incidents   2 open incidents of the job   3 delivery hash   then the incident hashes
-- ARGV  1 now_ms   2 when it worked, ms   3 seconds that closed incidents are kept
--       4 what to tell ('' = nothing)   then the id of each incident
-- Answers  how many were open until now
local closed = 0
for i = 5, #ARGV do
  local key, id = KEYS[i - 1], ARGV[i]
  local last = redis.call('ZSCORE', KEYS[1], id)
  if last and tonumber(last) <= tonumber(ARGV[2]) then
    closed = closed + 1
    redis.call('ZREM', KEYS[1], id)
    redis.call('SREM', KEYS[2], id)
    redis.call('HSET', key, 'closed_ms', ARGV[1])
    redis.call('EXPIRE', key, ARGV[3])
  end
end
if closed > 0 and ARGV[4] ~= '' then
  redis.call('HSET', KEYS[3], 'recovery', ARGV[4])
end
return closed
