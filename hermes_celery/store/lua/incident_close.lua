-- Close the incidents that last happened before something worked again.
--
-- KEYS  1 incidents: open ones   2 of_job: open ones of the job   3 delivery
--       then the incident hashes
-- ARGV  1 now_ms   2 worked_ms: when it worked   3 keep_seconds: how long closed ones are kept
--       4 recovery: what to report ('' = nothing)   then the id of each incident
-- Answers  how many were open until now (if a record is not a hash, its incident is closed all the
--          same, and the record stays as it is);
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
check('ZCARD', KEYS[1])
check('SCARD', KEYS[2])
if ARGV[4] ~= '' then
  check('HLEN', KEYS[3])
end
if broken then
  return broken_answer()
end
local over, is_readable = {}, {}
for i = 5, #ARGV do
  local last = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if last and tonumber(last) <= tonumber(ARGV[2]) then
    over[#over + 1] = i
    check('HLEN', KEYS[i - 1])
    is_readable[i] = not broken
    broken = nil
  end
end

for _, i in ipairs(over) do
  redis.call('ZREM', KEYS[1], ARGV[i])
  redis.call('SREM', KEYS[2], ARGV[i])
  if is_readable[i] then
    redis.call('HSET', KEYS[i - 1], 'closed_ms', ARGV[1])
    redis.call('EXPIRE', KEYS[i - 1], ARGV[3])
  end
end
if #over > 0 and ARGV[4] ~= '' then
  redis.call('HSET', KEYS[3], 'recovery', ARGV[4])
end
return #over
