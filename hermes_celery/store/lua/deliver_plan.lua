-- Record the parts of a delivery, one for each target, unless it is planned already.
--
-- KEYS  1 delivery   2 run   3 job   4 deliveries   5 incident
-- ARGV  1 id   2 now_ms   3 keep_seconds: how long to keep the record after its end
--       4 parts: as JSON   5 warning: '' = none   6 count: of the incident that it reports
--       ('' = none)   7 text: '' = unchanged
--       then for each part: 1 '1' if the run's delivery depends on it, else '0'   2 state   3 error
-- Answers  'ok' and the state of the whole delivery, 'known' (planned already);
--          'broken', a key and what is wrong with it (nothing changed)
--#include _settle
local where = {delivery = KEYS[1], run = KEYS[2], job = KEYS[3], deliveries = KEYS[4]}
local known = fields(KEYS[1], 'parts', 'again')
if known[1] and not known[2] then
  return {'known', ''}
end
local subject = look_at_subject(where)
check('HLEN', KEYS[5])
if broken then
  return broken_answer()
end

for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.find(field, '^%d+:') then
    redis.call('HDEL', KEYS[1], field)
  end
end
redis.call('HDEL', KEYS[1], 'again', 'planner', 'planner_until', 'plannings')
redis.call('HSET', KEYS[1], 'parts', ARGV[4], 'size',
  string.format('%d', (#ARGV - 7) / 3))
local parts = {}
for i = 8, #ARGV, 3 do
  local number = (i - 8) / 3
  local part = string.format('%d', number)
  parts[number] = {counts = ARGV[i] == '1', state = ARGV[i + 1], error = ARGV[i + 2], due = 0}
  redis.call('HSET', KEYS[1], part .. ':counts', ARGV[i], part .. ':state', ARGV[i + 1],
    part .. ':error', ARGV[i + 2])
end
if ARGV[7] ~= '' then
  redis.call('HSET', KEYS[1], 'text', ARGV[7])
end
if ARGV[5] ~= '' and redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HSET', KEYS[2], 'delivery_warning', ARGV[5])
end
if ARGV[6] ~= '' and redis.call('EXISTS', KEYS[5]) == 1 then
  redis.call('HSET', KEYS[5], 'told', ARGV[6])
end
return {'ok', settle(where, {id = ARGV[1], now = ARGV[2], keep_seconds = ARGV[3]}, parts, subject)}
