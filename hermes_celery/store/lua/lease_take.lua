-- Become the leader if there is none. First repair what would keep every beat from leading: a lease
-- without an expiry gets one, and a broken lease, term or leader is quarantined.
--
-- Another server than the one where the last leader began (a promoted replica, or the same server
-- restarted) may have forgotten the latest terms. Then the count skips ahead, so that no earlier
-- leader can hold the same number, and two leaders never have the same token. The same applies when
-- the count is not above a term that a living beat knows: the server was emptied.
--
-- KEYS  1 lease   2 term   3 leader   4 lease_aside   5 term_aside   6 leader_aside: quarantine for
--       the first three keys
-- ARGV  1 owner   2 lease_ms   3 now_ms   4 known: the greatest term that the caller knows
-- Answers  'ok', the new term (the fencing token), 0
--          'held', the term, milliseconds until the lease expires
--          and in both cases, for each repaired key, its name and what was wrong
local mended = {}

local function note(key, what)
  mended[#mended + 1] = key
  mended[#mended + 1] = what
end

local function answer(word, value, ms)
  return {word, value, ms, unpack(mended)}
end

-- Return what is wrong with a key's type; nothing if it is absent or right.
local function fault(key, wanted)
  local kind = redis.call('TYPE', key)['ok']
  if kind ~= 'none' and kind ~= wanted then
    return 'is a ' .. kind .. ', not a ' .. wanted
  end
end

local function term_fault()
  local wrong = fault(KEYS[2], 'string')
  if wrong then
    return wrong
  end
  local term = redis.call('GET', KEYS[2])
  -- Lua numbers are exact up to fifteen digits; INCR refuses leading zeros.
  local is_count = term == '0' or (term and string.match(term, '^[1-9]%d*$') and #term <= 15)
  if term and not is_count then
    return 'is not a count of terms'
  end
end

local TERMS_FORGOTTEN_AT_MOST = 1000

-- Return the server's run id, which is new at each start; '' if it is unknown.
local function server_id()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
end

local wrong_lease, wrong_term = fault(KEYS[1], 'string'), term_fault()
local wrong_leader = fault(KEYS[3], 'hash')
local owner = not wrong_lease and redis.call('GET', KEYS[1])
if owner and not wrong_term then
  local left_ms = redis.call('PTTL', KEYS[1])
  if left_ms == -1 then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    left_ms = tonumber(ARGV[2])
    note(KEYS[1], 'had no expiry, so no other beat could take over')
  end
  return answer('held', redis.call('GET', KEYS[2]) or '0', left_ms)
end
if wrong_lease then
  redis.call('RENAME', KEYS[1], KEYS[4])
  note(KEYS[1], wrong_lease)
end
if wrong_leader then
  redis.call('RENAME', KEYS[3], KEYS[6])
  note(KEYS[3], wrong_leader)
end
local server, before = server_id(), redis.call('HGET', KEYS[3], 'server')
local known, term = tonumber(ARGV[4]), nil
if known > 1e14 then
  -- Somebody wrote it by hand: the next terms would soon exceed fifteen digits.
  known = 0
end
if wrong_term then
  redis.call('RENAME', KEYS[2], KEYS[5])
  note(KEYS[2], wrong_term)
  -- No count of terms has reached the current time in ms, so no earlier leader has the same token.
  term = string.format('%d', math.max(tonumber(ARGV[3]), known + 1))
  redis.call('SET', KEYS[2], term)
else
  local is_another = before and server ~= '' and before ~= server
  term = redis.call('INCR', KEYS[2])
  if is_another or term <= known then
    term = math.max(term, known) + TERMS_FORGOTTEN_AT_MOST
  end
  term = string.format('%d', term)
  redis.call('SET', KEYS[2], term)
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('HSET', KEYS[3], 'owner', ARGV[1], 'term', term, 'since_ms', ARGV[3],
  'server', server)
return answer('ok', term, 0)
