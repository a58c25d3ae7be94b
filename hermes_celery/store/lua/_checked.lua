-- Helpers to read before writing. Redis does not roll back a script, so these functions find
-- whatever may be wrong with a key before the first write; the commands after it cannot fail.
--
-- `broken` is the first broken key and what is wrong with it; nil while all is well. A script
-- checks it before it writes, and then returns `broken_answer()`.
local broken

local function is_broken(key, what)
  broken = broken or {key, what}
end

local function broken_answer()
  return {'broken', broken[1], broken[2]}
end

-- Return the answer of a reading command; false for a key of another type. Other errors, such as a
-- missing permission, end the script here, with nothing written.
local function ask(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) == 'table' and answer.err then
    local problem = tostring(answer.err)
    if not string.find(problem, 'WRONGTYPE', 1, true) then
      error(problem, 0)
    end
    local kind = redis.call('TYPE', key)
    is_broken(key, 'has the wrong type: ' .. (kind.ok or kind))
    return false
  end
  return answer
end

-- Return fields of a hash; an empty table for a key of another type.
local function fields(key, ...)
  local answer = redis.pcall('HMGET', key, ...)
  if answer.err then
    ask('HMGET', key, ...)
    return {}
  end
  return answer
end

-- Return a stored whole number; `default` if it is missing or invalid.
local function whole(key, name, text, default)
  if not text then
    return default
  end
  if #text <= 16 and string.find(text, '^-?%d+$') then
    return tonumber(text)
  end
  local shown = string.gsub(string.sub(text, 1, 40), '[^%w%p ]', '?')
  is_broken(key, 'has ' .. name .. ' "' .. shown .. '", not a whole number')
  return default
end

-- Check the type of a key that will be written without being read. `count` is the counting command
-- of its type: ZCARD, HLEN, LLEN, SCARD or STRLEN.
local function check(count, key)
  local answer = redis.pcall(count, key)
  if type(answer) ~= 'number' then
    ask(count, key)
  end
end
