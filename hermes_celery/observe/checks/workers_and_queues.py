"""Check beats, workers and queues, from one `Status` of the namespace.

`doctor` and `status` both report who leads, who is alive, and whether workers take messages.
"""

from __future__ import annotations

from collections.abc import Iterator

from hermes_celery.core.counted import counted
from hermes_celery.observe.checks.records import REPAIR
from hermes_celery.observe.figures import Status
from hermes_celery.observe.finding import Finding, Verdict, fail, ok, warn
from hermes_celery.store import OUR_APP, beat_command, worker_command
from hermes_celery.store.queue_health import SILENT_MS, QueueLook, QueueState
from hermes_celery.store.worker_signs import node_of


def process_findings(state: Status) -> Iterator[Finding]:
    """Yield the findings of a status about keys, beats, workers and queues."""
    for text in state.broken:
        yield fail("records", f"{text}; {REPAIR}")
    yield beat_finding(state)
    yield worker_finding(state)
    yield from twin_findings(state)
    yield from queue_findings(state)


def beat_finding(state: Status) -> Finding:
    """Report whether a beat leads every shard of the due index."""
    if state.leader:
        shards = f" {state.shards} shards" if state.shards > 1 else ""
        return ok("beat", f"{state.leader} leads{shards}")
    if len(state.unled) < state.shards:
        return fail("beat", f"none leads shard {', '.join(map(str, state.unled))}; see the beats' "
                    "logs, or start one more `celery beat`")  # fmt: skip
    start = beat_command(state.app)
    return fail("beat", f"none leads, so nothing is dispatched; start {start}")


def all_is_served(state: Status) -> bool:
    """Return whether a beat leads, a worker is there, no queue is stuck, and no jobs are lost."""
    is_stuck = any(finding.verdict is Verdict.FAIL for finding in queue_findings(state))
    return bool(state.leader and has_workers(state) and not is_stuck and not state.gone)


def worker_finding(state: Status) -> Finding:
    """Report whether there are workers that ask for messages; being alive is not enough."""
    foreign = sorted({worker for look in _foreign(state) for worker in look.foreign})
    if not state.workers and foreign:
        return ok("workers", f"none with Cron(app); without it: {', '.join(foreign)}")
    if not state.workers:
        return fail("workers", f"none, so nothing runs; start {_start(state)}"
                    f"{' or `up`' if state.app == OUR_APP else ''}")  # fmt: skip
    asking = [name for name in state.workers if name not in state.silent_workers]
    if not asking:
        return fail("workers", f"{', '.join(state.workers)}: alive, but asking for no messages; "
                    "see the logs, and restart them")  # fmt: skip
    return ok("workers", f"{len(asking)}: {', '.join(asking)}")


def twin_findings(state: Status) -> Iterator[Finding]:
    """Report workers that share one Celery name."""
    named: dict[str, list[str]] = {}
    for name in state.workers:
        named.setdefault(node_of(name), []).append(name)
    for node, names in sorted(named.items()):
        if len(names) > 1:
            yield warn("workers", f"{len(names)} workers are called {node} ({', '.join(names)}): "
                       "Celery's inspect and control, and Flower, treat them as one; give each a "
                       "name of its own, -n NAME@%h")  # fmt: skip


def no_workers(state: Status) -> str:
    """Return the text of `status` when no worker reports."""
    if _foreign(state):
        return "none with Cron(app)"
    return "none: nothing runs; start a worker"


def queue_findings(state: Status) -> Iterator[Finding]:
    """Report each queue that has a problem, or whose workers do not report."""
    for look in _foreign(state):
        yield ok("queue", look.foreign_warning)
    for look in state.queues:
        if look.state is QueueState.SILENT:
            yield fail("queue", f"no worker has taken a message from queue {look.name} "
                       f"{look.since}, {look.waiting} wait, and {', '.join(look.workers)} asks for "
                       "no messages; see its log, and restart it")  # fmt: skip
        elif look.waiting:
            yield from _waits(look, state)


def has_workers(state: Status) -> bool:
    """Return whether any worker takes messages, even one that does not report."""
    return bool(state.workers or _foreign(state))


def _foreign(state: Status) -> list[QueueLook]:
    """Return the queues that only workers without our hooks consume."""
    return [look for look in state.queues if look.state is QueueState.FOREIGN]


def _start(state: Status, *, queue: str = "") -> str:
    """Return the command to start a worker, in backticks if it is complete."""
    text = worker_command(state.app, queue=queue)
    return f"`{text}`" if state.app else text


def _waits(look: QueueLook, state: Status) -> Iterator[Finding]:
    """Report what is wrong with a queue on which messages wait."""
    now_ms = state.now_ms
    if look.state is QueueState.NOBODY and has_workers(state):
        yield fail("queue", f"queue {look.name}: no worker consumes it, and "
                   f"{_messages_wait(look)}; start {_start(state, queue=look.name)}")  # fmt: skip
    elif look.state is QueueState.BUSY and _is_old(look, now_ms=now_ms):
        yield warn("queue", f"no worker has taken a message from queue {look.name} {look.since} "
                   f"and {counted(look.waiting, 'waits', 'wait')}: all slots are taken; "
                   "start more workers, or raise "
                   "HERMES_CRON_MAX_WORKERS")  # fmt: skip
    elif look.state is QueueState.UNKNOWN and _is_old(look, now_ms=now_ms):
        yield warn("queue", f"{_messages_wait(look)} on queue {look.name}; it is unknown "
                   "whether a worker consumes it, as one of version 0.1.0 is there")  # fmt: skip


def _messages_wait(look: QueueLook) -> str:
    return counted(look.waiting, "message waits", "messages wait")


def _is_old(look: QueueLook, *, now_ms: int) -> bool:
    """Return whether a message waits, and none was taken, for longer than `SILENT_MS`."""
    known = [at for at in (look.taken_ms, look.oldest_ms) if at is not None]
    return bool(known) and now_ms - max(known) > SILENT_MS
