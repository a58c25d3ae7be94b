-- Book what a run used, once, and pause its job when the day's budget is spent.
--
-- KEYS  1 run hash   2 job hash   3 due index
-- ARGV  1 claim token   2 job id   3 day   4 tokens   5 cost   6 token budget ('' = none)
--       7 cost budget ('' = none)   8 now_ms   9 attempt
-- Answers  'ok', 'paused' (the job was paused now), 'again' (booked before), 'late' (not our claim)
local run = redis.call('HMGET', KEYS[1], 'claim', 'booked_attempt', 'tokens', 'cost_usd')
if run[1] ~= ARGV[1] then
  return 'late'
elseif run[2] == ARGV[9] then
  return 'again'
end
redis.call('HSET', KEYS[1], 'booked_attempt', ARGV[9], 'tokens', (run[3] or 0) + ARGV[4],
  'cost_usd', tostring((run[4] or 0) + ARGV[5]))
local job = redis.call('HMGET', KEYS[2], 'state', 'spent_day', 'spent_tokens', 'spent_cost')
if not job[1] then
  return 'ok'
end
local tokens, cost = tonumber(ARGV[4]), tonumber(ARGV[5])
if job[2] == ARGV[3] then
  tokens, cost = tokens + job[3], cost + job[4]
end
redis.call('HSET', KEYS[2], 'spent_day', ARGV[3], 'spent_tokens', tokens,
  'spent_cost', tostring(cost))
local why
if ARGV[6] ~= '' and tokens >= tonumber(ARGV[6]) then
  why = 'token budget spent: ' .. string.format('%d', tokens) .. ' of ' .. ARGV[6]
elseif ARGV[7] ~= '' and cost >= tonumber(ARGV[7]) then
  why = 'cost budget spent: ' .. string.format('%.4f', cost) .. ' of ' .. ARGV[7] .. ' USD'
end
if not why or job[1] ~= 'scheduled' then
  return 'ok'
end
-- Whoever edits the job at this moment shall not bring it back by accident.
redis.call('HINCRBY', KEYS[2], 'revision', 1)
redis.call('HSET', KEYS[2], 'state', 'paused', 'paused_ms', ARGV[8],
  'paused_reason', why .. ' on ' .. ARGV[3] .. ' (UTC); resume it to go on')
redis.call('ZREM', KEYS[3], ARGV[2])
return 'paused'
