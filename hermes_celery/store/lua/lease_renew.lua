-- Renew the lease.
--
-- KEYS  1 lease   2 term
-- ARGV  1 owner   2 lease_ms   3 token
-- Answers  'ok', 'lost' (it expired, another beat leads, or a key is broken: lease_take.lua repairs
--          that)
-- For a key of another type, pcall returns an error, which differs from any term and owner.
if redis.pcall('GET', KEYS[2]) ~= ARGV[3] or redis.pcall('GET', KEYS[1]) ~= ARGV[1] then
  return 'lost'
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'ok'
