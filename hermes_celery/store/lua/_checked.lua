-- Reading before writing. Redis does not roll back: whatever may be wrong with a key is found by these
-- functions before the first write, and the commands after it cannot fail.
--
-- `broken` is the first key that is not as it should be, and what is wrong with it; nil while all is
-- well. A script looks there before it writes, and answers `broken_answer()`.
local broken

local function is_broken(key, what)
  broken = broken or {key, what}
end

local function broken_answer()
  return {'broken', broken[1], broken[2]}
end

-- The answer of a reading command; false where the key is of another type. Other errors (a command
-- that this user may not run, ...) end the script here, with nothing written.
local function ask(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) == 'table' and answer.err then
    local problem = tostring(answer.err)
    if not string.find(problem, 'WRONGTYPE', 1, true) then
      error(problem, 0)
    end
    local kind = redis.call('TYPE', key)
    is_broken(key, 'is a ' .. (kind.ok or kind) .. ', which it must not be')
    return false
  end
  return answer
end

-- Fields of a hash; an empty table where the key is no hash.
local function fields(key, ...)
  local answer = redis.pcall('HMGET', key, ...)
  if answer.err then
    ask('HMGET', key, ...)
    return {}
  end
  return answer
end

-- A stored whole number; `default` where there is none.
local function whole(key, name, text, default)
  if not text then
    return default
  end
  if #text <= 16 and string.find(text, '^-?%d+$') then
    return tonumber(text)
  end
  local shown = string.gsub(string.sub(text, 1, 40), '[^%w%p ]', '?')
  is_broken(key, 'has ' .. name .. ' "' .. shown .. '", which is no whole number')
  return default
end

-- Whether a key that is only written to can be written to: `count` is the command that counts what a
-- key of its type holds (ZCARD, HLEN, LLEN, SCARD, STRLEN).
local function check(count, key)
  local answer = redis.pcall(count, key)
  if type(answer) ~= 'number' then
    ask(count, key)
  end
end
