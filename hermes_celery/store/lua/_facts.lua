-- Read the facts about one job or one run in one step; `reconciling_jobs.py` and
-- `reconciling_runs.py` judge them. Nothing here fails, whatever is stored, and nothing is written.
--
-- A fact is a text: '' for nothing, '=' and the value, or '!' for a key of another type.
local function kind_of(key)
  return redis.call('TYPE', key)['ok']
end

-- Return whether an answer is the error for a wrong type; any other error ends the script here.
local function is_wrong(answer)
  if type(answer) ~= 'table' or not answer.err then
    return false
  elseif not string.find(tostring(answer.err), 'WRONGTYPE', 1, true) then
    error(tostring(answer.err), 0)
  end
  return true
end

local function fact(value)
  if is_wrong(value) then
    return '!'
  end
  return value and '=' .. value or ''
end

local function add_fields(facts, key, fields)
  local row = redis.pcall('HMGET', key, unpack(fields))
  for i = 1, #fields do
    facts[#facts + 1] = is_wrong(row) and '!' or fact(row[i])
  end
end

-- Return a digest of the facts: it is equal for two reads if nothing has changed in between.
local function digest(facts)
  local parts = {}
  for i, value in ipairs(facts) do
    parts[i] = #value .. ':' .. value
  end
  return redis.sha1hex(table.concat(parts, ','))
end

-- Return a hash's field names, sorted, so that the digest is stable, and its values by name.
local function sorted_pairs(key)
  local flat, names, values = redis.call('HGETALL', key), {}, {}
  for i = 1, #flat, 2 do
    names[#names + 1] = flat[i]
    values[flat[i]] = flat[i + 1]
  end
  table.sort(names)
  return names, values
end

local function held_ids(key)
  local ids = {}
  for i, entry in ipairs(redis.call('LRANGE', key, 0, -1)) do
    local cut = string.find(entry, '\0', 1, true)
    ids[i] = cut and string.sub(entry, 1, cut - 1) or ''
  end
  return ids
end

local JOB_FIELDS = {'state', 'next_ms', 'revision', 'completed', 'paused_ms', 'last_run_ms',
  'failures', 'pause_after', 'spent_tokens', 'spent_cost'}

-- `k`  1 job hash  2 its due index  3 the due index where its entry was found  4 active runs
--      5 held runs  6 all jobs  7 names  8 completed jobs
-- `args`  1 id  2 its entry in the index of names  3 an entry that was found there
local function job_facts(k, args)
  local id, facts = args[1], {kind_of(k[1])}
  add_fields(facts, k[1], JOB_FIELDS)
  facts[#facts + 1] = fact(redis.pcall('HSTRLEN', k[1], 'spec'))
  facts[#facts + 1] = fact(redis.pcall('ZSCORE', k[2], id))
  facts[#facts + 1] = fact(k[3] ~= k[2] and redis.pcall('ZSCORE', k[3], id))
  facts[#facts + 1] = fact(redis.pcall('ZSCORE', k[6], id))
  facts[#facts + 1] = fact(redis.pcall('ZSCORE', k[8], id))
  facts[#facts + 1] = fact(args[2] ~= '' and redis.pcall('ZSCORE', k[7], args[2]))
  facts[#facts + 1] = fact(args[3] ~= '' and redis.pcall('ZSCORE', k[7], args[3]))
  local active, held = kind_of(k[4]), kind_of(k[5])
  facts[#facts + 1] = active
  facts[#facts + 1] = held
  local names, values = {}, {}
  if active == 'hash' then
    names, values = sorted_pairs(k[4])
  end
  facts[#facts + 1] = string.format('%d', #names)
  for _, name in ipairs(names) do
    facts[#facts + 1] = name
    facts[#facts + 1] = values[name]
  end
  for _, run_id in ipairs(held == 'list' and held_ids(k[5]) or {}) do
    facts[#facts + 1] = run_id
  end
  return facts
end

local RUN_FIELDS = {'state', 'queued_ms', 'started_ms', 'finished_ms', 'attempt', 'expires_ms',
  'exit_code', 'output_bytes', 'tokens', 'cost_usd', 'job_name', 'delivery', 'trigger', 'hop',
  'handed_hop', 'retry_ms', 'patience_ms', 'pushes', 'on_queue_ms', 'handed_on', 'unpushed'}

-- `k`  1 run hash  2 active runs of its job  3 held runs  4 queued runs  5 heartbeats  6 deliveries
--      7 all runs  8 runs by job  9 its delivery
-- `args`  1 id
local function run_facts(k, args)
  local id, facts = args[1], {kind_of(k[1])}
  add_fields(facts, k[1], RUN_FIELDS)
  local active, held = kind_of(k[2]), ''
  local word = active == 'hash' and redis.call('HGET', k[2], id)
  facts[#facts + 1] = active
  facts[#facts + 1] = fact(word)
  facts[#facts + 1] = active == 'hash' and string.format('%d', redis.call('HLEN', k[2])) or '0'
  if not word and kind_of(k[3]) == 'list' then
    for place, run_id in ipairs(held_ids(k[3])) do
      held = held == '' and run_id == id and '=' .. place or held
    end
  end
  facts[#facts + 1] = held
  facts[#facts + 1] = fact(redis.pcall('ZSCORE', k[4], id))
  facts[#facts + 1] = fact(redis.pcall('ZSCORE', k[5], id))
  facts[#facts + 1] = fact(redis.pcall('ZSCORE', k[6], id))
  facts[#facts + 1] = fact(redis.pcall('ZSCORE', k[7], id))
  facts[#facts + 1] = fact(redis.pcall('ZSCORE', k[8], id))
  facts[#facts + 1] = kind_of(k[9])
  return facts
end

-- `k`  1 the key   `args`  fields to read if it is a hash
local function key_facts(k, args)
  local kind = kind_of(k[1])
  local facts = {kind}
  facts[2] = kind == 'string' and '=' .. redis.call('GETRANGE', k[1], 0, 63) or ''
  facts[3] = redis.call('PTTL', k[1]) == -1 and '=forever' or ''
  if kind == 'hash' and #args > 0 then
    add_fields(facts, k[1], args)
  end
  return facts
end
