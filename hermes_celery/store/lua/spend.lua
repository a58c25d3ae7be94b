-- Book a run's usage, once for each attempt, and pause its job when the day's budget is used up.
--
-- KEYS  1 run   2 job   3 due: the due index
-- ARGV  1 token: of the claim   2 job_id   3 day   4 tokens   5 cost   6 token_budget: '' = none
--       7 cost_budget: '' = none   8 now_ms   9 attempt
-- Answers  'ok', 'paused' (the job was paused now), 'again' (booked before), 'late' (claim lost),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local run = fields(KEYS[1], 'claim', 'booked_attempt', 'tokens', 'cost_usd')
if not broken and run[1] ~= ARGV[1] then
  return 'late'
elseif not broken and run[2] == ARGV[9] then
  return 'again'
end

-- Return a stored amount of money; 0 if it is missing.
local function amount(key, name, text)
  local found = tonumber(text or 0)
  if not found then
    is_broken(key, 'has ' .. name .. ' that is not a number')
  end
  return found or 0
end

local run_tokens = whole(KEYS[1], 'tokens', run[3], 0)
local run_cost = amount(KEYS[1], 'cost_usd', run[4])
local job = fields(KEYS[2], 'state', 'spent_day', 'spent_tokens', 'spent_cost', 'revision')
local tokens, cost = tonumber(ARGV[4]), tonumber(ARGV[5])
if job[2] == ARGV[3] then
  tokens = tokens + whole(KEYS[2], 'spent_tokens', job[3], 0)
  cost = cost + amount(KEYS[2], 'spent_cost', job[4])
end
local revision = whole(KEYS[2], 'revision', job[5], 0)
check('ZCARD', KEYS[3])
if broken then
  return broken_answer()
end

redis.call('HSET', KEYS[1], 'booked_attempt', ARGV[9],
  'tokens', string.format('%.0f', run_tokens + tonumber(ARGV[4])),
  'cost_usd', tostring(run_cost + tonumber(ARGV[5])))
if not job[1] then
  return 'ok'
end
redis.call('HSET', KEYS[2], 'spent_day', ARGV[3], 'spent_tokens', string.format('%.0f', tokens),
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
-- The revision rises, so that a simultaneous edit does not resume the job by accident.
redis.call('HSET', KEYS[2], 'revision', string.format('%.0f', revision + 1), 'state', 'paused',
  'paused_ms', ARGV[8],
  'paused_reason', why .. ' on ' .. ARGV[3] .. ' (UTC); resume it to go on')
redis.call('ZREM', KEYS[3], ARGV[2])
return 'paused'
