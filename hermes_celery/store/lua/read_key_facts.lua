-- Read the facts about some keys that all jobs share.
--
-- KEYS  the keys
-- ARGV  for each key: the number of fields to read if it is a hash, then their names
-- Answers  for each key a list: the digest of its facts, and the facts
--#include _facts
local answers, at = {}, 1
for i, key in ipairs(KEYS) do
  local fields = {}
  for j = 1, tonumber(ARGV[at]) do
    fields[j] = ARGV[at + j]
  end
  at = at + 1 + #fields
  local facts = key_facts({key}, fields)
  table.insert(facts, 1, digest(facts))
  answers[i] = facts
end
return answers
