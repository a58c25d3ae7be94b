-- Move keys and entries from one namespace to another. The caller has checked the types of all
-- keys, so nothing here can fail.

-- RENAME works for every type, and fails only for a missing key.
local function move_key(from, to)
  if redis.call('EXISTS', from) == 1 then
    redis.call('RENAME', from, to)
  end
end

local function move_scored(from, to, member)
  local score = redis.call('ZSCORE', from, member)
  if score then
    redis.call('ZADD', to, score, member)
    redis.call('ZREM', from, member)
  end
end

-- Move a run's record, stdout, stderr and delivery: the four KEYS from `k` on, to the four KEYS
-- after them. A record that exists in the target is younger, and stays.
local function move_run_keys(k)
  if redis.call('EXISTS', KEYS[k + 4]) == 1 then
    redis.call('DEL', KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3])
    return
  end
  for i = 0, 3 do
    move_key(KEYS[k + i], KEYS[k + 4 + i])
  end
end
