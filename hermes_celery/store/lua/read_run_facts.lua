-- Read the facts about many runs; for runs that are plainly consistent, answer nothing.
--
-- KEYS  1 queued runs   2 heartbeats   3 deliveries   4 all runs   5 runs by job, then for each run:
--       run hash, active runs of its job, held runs of its job, its delivery
-- ARGV  1 'all' (answer for every run) or 'some', then the id of each run
-- Answers  for each run '' (consistent) or a list: the digest of its facts, and the facts
--#include _facts
local FINAL = {succeeded = true, failed = true, timed_out = true, cancelled = true, lost = true,
  skipped = true}

-- Return whether a run has ended and is in no index of runs under way.
local function is_plain(k, id)
  local row = redis.pcall('HMGET', k[1], 'state', 'delivery')
  if row.err or not FINAL[row[1]] or row[2] == 'pending' then
    return false
  end
  for _, index in ipairs({k[4], k[5]}) do
    if redis.pcall('ZSCORE', index, id) then
      return false
    end
  end
  local word = redis.pcall('HGET', k[2], id)
  return not word or type(word) == 'table'
end

local answers = {}
for i = 1, (#KEYS - 5) / 4 do
  local at, id = 5 + (i - 1) * 4, ARGV[1 + i]
  local k = {KEYS[at + 1], KEYS[at + 2], KEYS[at + 3], KEYS[1], KEYS[2], KEYS[3], KEYS[4],
    KEYS[5], KEYS[at + 4]}
  if ARGV[1] ~= 'all' and is_plain(k, id) then
    answers[i] = ''
  else
    local facts = run_facts(k, {id})
    table.insert(facts, 1, digest(facts))
    answers[i] = facts
  end
end
return answers
