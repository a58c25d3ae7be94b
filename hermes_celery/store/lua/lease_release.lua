-- Stop being the leader, so that a standby can take over at once.
--
-- KEYS  1 lease
-- ARGV  1 owner   2 wake: the channel
-- Answers  'ok', 'lost' (it was no longer ours, or is no lease any more)
-- A value of another type answers with an error, which is no owner either.
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then
  return 'lost'
end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], 'lease')
return 'ok'
