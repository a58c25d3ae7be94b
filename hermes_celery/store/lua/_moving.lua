-- Moving keys and entries from one namespace to another. After the types of all keys were checked,
-- nothing here can fail.

-- `cjson` and RENAME care for no type, so only that there is something must be asked.
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

-- A run's record, stdout, stderr and delivery: four keys from `k` on, and where they go behind them.
-- A record that is there already is the younger one, and stays.
local function move_run_keys(k)
  if redis.call('EXISTS', KEYS[k + 4]) == 1 then
    redis.call('DEL', KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3])
    return
  end
  for i = 0, 3 do
    move_key(KEYS[k + i], KEYS[k + 4 + i])
  end
end
