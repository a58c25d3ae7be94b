-- Read the facts about many jobs; for jobs that are plainly consistent, answer nothing.
--
-- KEYS  1 all jobs   2 names   3 completed jobs, then for each job: job hash,
--       its due index, the due index where its entry was found, active runs, held runs
-- ARGV  1 'all' (answer for every job), 'some' (for jobs that are not plainly consistent) or 'listed'
--       (the same, for jobs from the index of jobs)   2 an instant, ms: a job that is planned for
--       later is not plainly consistent (see core/reconciling_jobs.py), then for each job: id, its
--       entry in the index of names ('' = do not check it), an entry that was found there ('' = none)
-- Answers  for each job '' (consistent) or a list: the digest of its facts, and the facts
--#include _facts

local function is_whole(text)
  return text and #text <= 16 and string.find(text, '^-?%d+$')
end

local far_ms = tonumber(ARGV[2])

-- Return whether a job's index entries match its record, and it has no active or held run.
local function is_plain(k, id)
  local row = redis.pcall('HMGET', k[1], unpack(JOB_FIELDS))
  if row.err or not row[1] or not is_whole(row[3]) then
    return false
  end
  for i = 4, #JOB_FIELDS - 1 do
    if row[i] and not is_whole(row[i]) then
      return false
    end
  end
  if row[#JOB_FIELDS] and not tonumber(row[#JOB_FIELDS]) then
    return false
  end
  local due = redis.pcall('ZSCORE', k[2], id)
  local expected = row[1] == 'scheduled' and is_whole(row[2]) and tonumber(row[2]) or nil
  if row[1] ~= 'scheduled' and row[1] ~= 'paused' or row[1] == 'scheduled' and not expected then
    return false
  end
  if expected and expected > far_ms then
    return false
  end
  if type(due) == 'table' or k[3] ~= k[2] or (due and tonumber(due) or nil) ~= expected then
    return false
  end
  return redis.call('EXISTS', k[4], k[5]) == 0
    and (ARGV[1] == 'listed' or type(redis.pcall('ZSCORE', k[6], id)) == 'string')
end

local answers = {}
for i = 1, (#KEYS - 3) / 5 do
  local at, a = 3 + (i - 1) * 5, 2 + (i - 1) * 3
  local k = {KEYS[at + 1], KEYS[at + 2], KEYS[at + 3], KEYS[at + 4], KEYS[at + 5], KEYS[1],
    KEYS[2], KEYS[3]}
  if ARGV[1] ~= 'all' and is_plain(k, ARGV[a + 1]) then
    answers[i] = ''
  else
    local facts = job_facts(k, {ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]})
    table.insert(facts, 1, digest(facts))
    answers[i] = facts
  end
end
return answers
