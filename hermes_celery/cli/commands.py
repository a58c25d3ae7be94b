"""The table of all commands: the module of each, so that only the called one is imported."""

from __future__ import annotations

#: Command name -> its module and function, and its line in `--help`.
COMMANDS = {
    "up": ("up:up", "Start everything on this machine: server, beat and worker."),
    "doctor": ("doctor:doctor", "Check settings, server, records and workers."),
    "fsck": ("fsck:fsck", "Check all stored records; `--repair` repairs them."),
    "status": ("status:status", "Show the leading beat, the workers, the queues and the runs."),
    "tick": ("ticking:tick_command", "Dispatch the due jobs once, unless a beat does."),
    "shards": ("shards:shards", "Split the due index, so that several beats tick at once."),
    "add": ("jobs:add", "Add a job."),
    "edit": ("jobs:edit", "Change a job."),
    "list": ("jobs:list_jobs", "List jobs."),
    "show": ("jobs:show", "Show one job."),
    "pause": ("jobs:pause", "Pause a job's schedule, or all of them."),
    "resume": ("jobs:resume", "Resume a job's schedule from now on, or all of them."),
    "remove": ("jobs:remove", "Remove a job; its runs are kept as history."),
    "move": ("move:move", "Move jobs from another namespace into this one."),
    "import": ("importing:import_jobs", "Import jobs from a Hermes home, RedBeat or Django."),
    "run": ("runs:run", "Run a job now, in addition to its schedule."),
    "runs": ("runs:runs", "List the latest runs."),
    "logs": ("runs:logs", "Print the output of a run."),
    "backfill": ("runs:backfill", "Run a job for each occurrence of a past time range."),
    "redeliver": ("delivery:redeliver", "Deliver a run's output again."),
    "incidents": ("delivery:incidents", "List open incidents; `incidents ack ID` silences one."),
    "letters": ("dead_letters:letters", "List dead letters: messages that no worker could read."),
    "cancel": ("runs:cancel", "Cancel a queued or running run."),
    "next": ("schedules:next_command", "Print the next instants of a schedule."),
    "explain": ("schedules:explain_command", "Explain a schedule in words."),
}

#: Words of other programs, and the command that does the same here.
MEANT = {
    **dict.fromkeys(("delete", "del", "rm", "uninstall"), "remove"),
    **dict.fromkeys(("create", "new", "schedule"), "add"),
    **dict.fromkeys(("update", "change", "set", "modify"), "edit"),
    **dict.fromkeys(("ls", "jobs"), "list"),
    **dict.fromkeys(("ps", "history", "executions"), "runs"),
    **dict.fromkeys(("trigger", "exec", "execute"), "run"),
    **dict.fromkeys(("info", "get", "inspect"), "show"),
    **dict.fromkeys(("log", "output", "tail"), "logs"),
    **dict.fromkeys(("enable", "unpause"), "resume"),
    **dict.fromkeys(("disable", "suspend"), "pause"),
    **dict.fromkeys(("kill", "abort"), "cancel"),
    **dict.fromkeys(("start", "serve"), "up"),
    **dict.fromkeys(("check", "health"), "doctor"),
    "help": "--help",
    "version": "--version",
}
#: The advice for words that no command stands for.
ADVICE = {
    **dict.fromkeys(
        ("stop", "down", "quit", "shutdown"),
        "Press Ctrl-C in the terminal of `up` to stop it; `cancel` stops a run, `pause` a job.",
    ),
    "restart": "Press Ctrl-C in the terminal of `up`, then start it again.",
}
