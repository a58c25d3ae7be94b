-- Release the lease, so that a standby beat can take over at once.
--
-- KEYS  1 lease
-- ARGV  1 owner   2 wake: the channel
-- Answers  'ok', 'lost' (it was no longer ours, or has another type)
-- For a key of another type, pcall returns an error, which differs from any owner.
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then
  return 'lost'
end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], 'lease')
return 'ok'
