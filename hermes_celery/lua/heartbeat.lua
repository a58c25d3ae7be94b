-- Say that runs still run, keep what they printed, and hear whether they should go on.
--
-- KEYS  1 heartbeats, then for each run: run hash, stdout, stderr, concurrency group
-- ARGV  1 when the claims die without another heartbeat, ms, then for each run: run id,
--       claim token, new stdout, new stderr
-- Answers  one word for each run: 'ok', 'cancel' (end it), 'lost' (the claim is no longer ours)
local answers = {}
for i = 1, (#KEYS - 1) / 4 do
  local k, a = 2 + (i - 1) * 4, 2 + (i - 1) * 4
  local run = redis.call('HMGET', KEYS[k], 'state', 'claim', 'cancel')
  if run[1] ~= 'running' or run[2] ~= ARGV[a + 1] then
    answers[i] = 'lost'
  else
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[a])
    redis.call('ZADD', KEYS[k + 3], 'XX', ARGV[1], ARGV[a])
    for stream = 1, 2 do
      if ARGV[a + 1 + stream] ~= '' then
        redis.call('APPEND', KEYS[k + stream], ARGV[a + 1 + stream])
      end
    end
    answers[i] = run[3] and 'cancel' or 'ok'
  end
end
return answers
