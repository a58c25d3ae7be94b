-- Store a run as `sent`: published, but not followed. The word in `state` is for programs of
-- version 0.1.0; the exact word is in `sort` (see `RunState.stored`).
--
-- `set_sent` writes the fields of the run; `JOB_SENT` is the job's last_status.
local JOB_SENT = 'sent'

local function set_sent(run, now, reason)
  redis.call('HSET', run, 'state', 'succeeded', 'sort', 'sent', 'finished_ms', now,
    'reason', reason)
end
