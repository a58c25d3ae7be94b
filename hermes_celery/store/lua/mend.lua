-- Write the repairs of one job, run or key, unless any of its facts has changed since it was read.
--
-- The types of all keys are among the facts, so no write can fail.
--
-- KEYS  1 term counter, then the keys of the subject (for a job those of `job_facts` in `_facts.lua`
--       and the sweep's hash; for a run those of `run_facts`; for a key itself and the refill mark),
--       then the quarantine keys for broken keys
-- ARGV  1 fencing token ('' = a person repairs)   2 'job', 'run' or 'key'   3 digest of the facts
--       4 number of the subject's arguments, then these, then for each write: number of its
--       arguments, command, number of its key among the subject's keys, arguments. Three commands
--       have a meaning of their own: RENAME takes the number of the new key, UNHOLD removes the
--       entries of a run ('' = invalid entries) from the list of held runs, NOTE writes a note for an
--       incident and comes before all others
-- Answers  'ok', 'moved' (a fact has changed: nothing is written), 'fenced' (a younger leader is known)
--#include _facts
if ARGV[1] ~= '' then
  local term = redis.pcall('GET', KEYS[1])
  if is_wrong(term) or term ~= ARGV[1] then
    return 'fenced'
  end
end
local k, args = {}, {}
for i = 2, #KEYS do
  k[i - 1] = KEYS[i]
end
local n = tonumber(ARGV[4])
for i = 1, n do
  args[i] = ARGV[4 + i]
end
local facts
if ARGV[2] == 'job' then
  facts = job_facts(k, args)
elseif ARGV[2] == 'run' then
  facts = run_facts(k, args)
else
  facts = key_facts(k, args)
end
if digest(facts) ~= ARGV[3] then
  return 'moved'
end

local function unhold(key, id)
  for _, entry in ipairs(redis.call('LRANGE', key, 0, -1)) do
    local cut = string.find(entry, '\0', 1, true)
    if (cut and string.sub(entry, 1, cut - 1) or '') == id then
      redis.call('LREM', key, 1, entry)
    end
  end
end

-- The permitted commands.
local WRITES = {
  HSET = function(key, ...) redis.call('HSET', key, ...) end,
  HDEL = function(key, ...) redis.call('HDEL', key, ...) end,
  ZADD = function(key, ...) redis.call('ZADD', key, ...) end,
  ZREM = function(key, ...) redis.call('ZREM', key, ...) end,
  SET = function(key, ...) redis.call('SET', key, ...) end,
  PEXPIRE = function(key, ...) redis.call('PEXPIRE', key, ...) end,
  RENAME = function(key, number) redis.call('RENAME', key, k[tonumber(number)]) end,
  UNHOLD = unhold,
  -- The first of all writes: if a full server refuses it, nothing has changed.
  NOTE = function(key, ...) redis.call('HSET', key, ...) end,
}

local at = 5 + n
-- The key for notes is not among the job's facts: if its type is wrong, it is repaired before the
-- job.
if ARGV[at + 1] == 'NOTE' then
  local kind = kind_of(k[tonumber(ARGV[at + 2])])
  if kind ~= 'hash' and kind ~= 'none' then
    return 'moved'
  end
end
while at <= #ARGV do
  local count, command, key = tonumber(ARGV[at]), ARGV[at + 1], k[tonumber(ARGV[at + 2])]
  local rest = {}
  for i = 1, count do
    rest[i] = ARGV[at + 2 + i]
  end
  WRITES[command](key, unpack(rest))
  at = at + 3 + count
end
return 'ok'
