"""What the test of the architecture still allows; each entry goes away with what it names."""

MANY_PARAMETERS = {
    "store.cancelling.cancel_run",
    "store.deliveries.notice",
    "store.deliveries.plan",
    "store.pushing.push_call",
    "store.queue_health.judge",
    "store.repairs.mend_call",
    "store.runs._end",
    "store.runs._finish",
    "store.runs._lose",
    "store.runs.end_waiting",
    "store.runs.give_up",
    "store.runs.put_back",
    "store.runs.trigger",
    "store.waiting_runs._redeliver",
    "store.waiting_runs.redeliver",
}
REDIS_WORDS = {
    "observe.checks.server",
    "cli.up",
    "observe.figures",
    "scheduling.foreign_workers",
    "scheduling.lease",
}
