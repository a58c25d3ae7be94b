-- Return a page of a sorted set: the members behind a position, even if the member at that position
-- is gone. Members with equal scores are ordered by bytes.
--
-- KEYS  1 index: a sorted set
-- ARGV  1 score: of the position ('' = the beginning)   2 member: of the position
--       3 limit: how many   4 order: 'up' (ascending) or 'down'
-- Answers  member, score, member, score ...
--          or 'broken', the key, what is wrong (three values, so it differs from a page)
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'zset' and kind ~= 'none' then
  return {'broken', KEYS[1], 'is a ' .. kind .. ', not a sorted set'}
end
local index, score, member, count = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])

-- Compare by bytes, as Redis does; Lua's own comparison depends on the server's locale.
local function is_before(one, other)
  for i = 1, math.min(#one, #other) do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then
      return a < b
    end
  end
  return #one < #other
end

-- Return how many members are before the position, and how many are at it (0 or 1).
local function before_and_at()
  local low = redis.call('ZCOUNT', index, '-inf', '(' .. score)
  local high = redis.call('ZCOUNT', index, '-inf', score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found = redis.call('ZRANGE', index, middle, middle)[1]
    if found == member then
      return middle, 1
    elseif is_before(found, member) then
      low = middle + 1
    else
      high = middle
    end
  end
  return low, 0
end

local first, last = 0, redis.call('ZCARD', index) - 1
if score ~= '' then
  local before, at = before_and_at()
  first, last = before + at, before - 1
end
if ARGV[4] == 'up' then
  return redis.call('ZRANGE', index, first, first + count - 1, 'WITHSCORES')
elseif last < 0 then
  return {}
end
local up = redis.call('ZRANGE', index, math.max(last - count + 1, 0), last, 'WITHSCORES')
local down = {}
for i = #up - 1, 1, -2 do
  down[#down + 1] = up[i]
  down[#down + 1] = up[i + 1]
end
return down
