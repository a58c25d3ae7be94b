-- Say that runs still run, and hear whether they should.
--
-- KEYS  1 heartbeats, then the run hash of each run
-- ARGV  1 when the claims die without another heartbeat, ms, then for each run: run id, claim token
-- Answers  one word for each run: 'ok', 'cancel' (end it), 'lost' (the claim is no longer ours)
local answers = {}
for i = 2, #KEYS do
  local run_id, claim = ARGV[(i - 1) * 2], ARGV[(i - 1) * 2 + 1]
  local run = redis.call('HMGET', KEYS[i], 'state', 'claim', 'cancel')
  if run[1] ~= 'running' or run[2] ~= claim then
    answers[i - 1] = 'lost'
  else
    redis.call('ZADD', KEYS[1], ARGV[1], run_id)
    answers[i - 1] = run[3] and 'cancel' or 'ok'
  end
end
return answers
