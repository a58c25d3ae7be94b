-- Add open incidents and undelivered notices to their indexes if they are missing there.
--
-- KEYS  1 open incidents   2 deliveries, then the incident hashes, then the delivery hashes
-- ARGV  1 now_ms   2 '1' to write, '' only to find   3 number of incidents, then the id of each
--       incident and notice
-- Answers  the ids that were missing
local missing = {}

local function is_missing(index, id)
  return redis.pcall('ZSCORE', index, id) == false
end

local function note(index, score, id)
  missing[#missing + 1] = id
  if ARGV[2] == '1' then
    redis.call('ZADD', index, score, id)
  end
end

for i = 3, #KEYS do
  local key, id = KEYS[i], ARGV[i + 1]
  if redis.call('TYPE', key)['ok'] == 'hash' then
    if i - 2 <= tonumber(ARGV[3]) then
      local row = redis.call('HMGET', key, 'closed_ms', 'last_ms')
      if not row[1] and row[2] and is_missing(KEYS[1], id) then
        note(KEYS[1], tonumber(row[2]) and row[2] or ARGV[1], id)
      end
    elseif redis.call('HEXISTS', key, 'text') == 1 and redis.call('TTL', key) == -1
        and is_missing(KEYS[2], id) then
      -- A notice that was delivered or given up has an expiry.
      note(KEYS[2], ARGV[1], id)
    end
  end
end
return missing
