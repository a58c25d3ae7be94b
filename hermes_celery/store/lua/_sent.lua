-- How a run is stored that was published and is not followed: `sent`. Programs of version 0.1.0 read
-- the word in `state`, the exact one stands in `sort` (see `RunState.stored`).
--
-- `set_sent` gives the fields of the run, `JOB_SENT` the job's last_status.
local JOB_SENT = 'sent'

local function set_sent(run, now, reason)
  redis.call('HSET', run, 'state', 'succeeded', 'sort', 'sent', 'finished_ms', now,
    'reason', reason)
end
