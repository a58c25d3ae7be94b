-- Pause all jobs, or resume them. A second pause keeps the first one's time, and its note unless a
-- new one is given. If nothing is paused, resume must not change `resumed_ms`: due occurrences
-- would be skipped.
--
-- KEYS  1 switch
-- ARGV  1 way: 'pause' or 'resume'   2 now_ms   3 note: '' = none
-- Answers  'ok', 'already' (it was so before),
--          'broken', a key and what is wrong with it (nothing changed)
--#include _checked
local paused_ms = fields(KEYS[1], 'paused_ms')[1]
if broken then
  return broken_answer()
end
-- An invalid instant pauses nothing; `record_fields.py` has the same rule.
local is_paused = false
if paused_ms and string.find(paused_ms, '^-?%d+$') then
  local ms = tonumber(paused_ms)
  is_paused = ms >= -62104060800000 and ms <= 253339228800000
end

if ARGV[1] == 'pause' and is_paused then
  if ARGV[3] ~= '' then
    redis.call('HSET', KEYS[1], 'note', ARGV[3])
  end
  return 'already'
elseif ARGV[1] == 'pause' then
  redis.call('HSET', KEYS[1], 'paused_ms', ARGV[2], 'note', ARGV[3])
  return 'ok'
elseif is_paused then
  redis.call('HSET', KEYS[1], 'resumed_ms', ARGV[2], 'paused_ms', '', 'note', '')
  return 'ok'
elseif paused_ms and paused_ms ~= '' then
  redis.call('HSET', KEYS[1], 'paused_ms', '', 'note', '')
end
return 'already'
