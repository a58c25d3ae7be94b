"""The table of all commands: where each is, so that only the one that is called is imported."""

from __future__ import annotations

#: Command -> where it is and what `--help` says of it without importing it.
COMMANDS = {
    "up": ("up:up", "Start everything on this machine: server, beat and worker."),
    "doctor": ("doctor:doctor", "Look at everything that must be in order."),
    "fsck": ("fsck:fsck", "Compare all stored records; `--repair` mends what it can."),
    "status": ("status:status", "Say who leads, what waits and what runs."),
    "tick": ("ticking:tick_command", "Dispatch what is due now, once, unless a beat does."),
    "shards": ("shards:shards", "Split the due index, so that several beats tick at once."),
    "add": ("jobs:add", "Add a job."),
    "edit": ("jobs:edit", "Change a job."),
    "list": ("jobs:list_jobs", "List all jobs."),
    "show": ("jobs:show", "Show one job."),
    "pause": ("jobs:pause", "Stop a job's schedule."),
    "resume": ("jobs:resume", "Let a job's schedule go on from now."),
    "remove": ("jobs:remove", "Remove a job; its runs stay as history."),
    "move": ("move:move", "Move jobs here from another namespace."),
    "import": ("importing:import_jobs", "Take over the jobs of a Hermes home, RedBeat or Django."),
    "run": ("runs:run", "Run a job now, beside its schedule."),
    "runs": ("runs:runs", "List the latest runs."),
    "logs": ("runs:logs", "Print what a run printed."),
    "backfill": ("runs:backfill", "Run a job for a range of time in the past."),
    "redeliver": ("delivery:redeliver", "Deliver a run's output once more."),
    "incidents": ("delivery:incidents", "List open troubles; `incidents ack ID` quiets one."),
    "letters": ("dead_letters:letters", "List messages that no worker could read."),
    "cancel": ("runs:cancel", "End a run that waits or runs."),
    "next": ("schedules:next_command", "Print the next instants of a schedule."),
    "explain": ("schedules:explain_command", "Say in words what a schedule means."),
}
