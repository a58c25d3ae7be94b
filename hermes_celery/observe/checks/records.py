"""What is stored of jobs and runs: whether it is all there, can be read, and goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from hermes_celery.core.dead_letters import QUIET_MS
from hermes_celery.core.incidents import TroubleKind
from hermes_celery.core.server_address import BrokerNames
from hermes_celery.delivering.watchdog import RETRY_GRACE_MS
from hermes_celery.errors import RecordBroken, SettingsError
from hermes_celery.instant import from_ms, iso
from hermes_celery.observe.finding import Finding, fail, ok, warn
from hermes_celery.observe.lost_jobs import lost_jobs
from hermes_celery.store import (
    CheckMode,
    Database,
    Declarations,
    Incidents,
    Jobs,
    Letters,
    Repairs,
    SharedKeys,
    Signs,
    SweepNotes,
)
from hermes_celery.store.loss_note import LossNote

#: How many runs are looked at, those that wait longest, and how long a retry may be overdue.
_LOOKED_AT = 500
#: What to do about a key that cannot be read.
REPAIR: Final = "`hermes-celery fsck --repair` mends it"


def check_jobs(database: Database, loss_note: LossNote) -> Finding:
    """Say whether all jobs are there that were, as far as beats know."""
    try:
        lost = lost_jobs(database, loss_note)
        if not lost:
            return ok("jobs", f"{Jobs(database).count()} stored")
    except RecordBroken as error:
        return fail("jobs", f"{error.key} {error.what}; {REPAIR}")
    return fail("jobs", "; and ".join(lost))


def check_records(database: Database, names: BrokerNames) -> Finding:
    """Say whether the keys that all share can be used, and what the leader's last look found."""
    shared = SharedKeys(database, names).check(
        CheckMode(now_ms=database.now_ms(), mends=False), shards=Repairs(database).count_shards()
    )
    if shared:
        return fail("records", f"{shared[0].text.split(';')[0]}"
                     f"{f', and {len(shared) - 1} more' if shared[1:] else ''}; "
                     "`hermes-celery fsck --repair` mends that")  # fmt: skip
    note = SweepNotes(database).read()
    if note.left:
        return warn("records", f"{note.left} disagree and could not be mended; "
                     "`hermes-celery fsck` lists them")  # fmt: skip
    if not note.ended_ms:
        return ok("records", "not compared yet; a beat does so, and `hermes-celery fsck`")
    mended = f", {note.mended} mended" if note.mended else ""
    return ok("records", f"{note.jobs} jobs compared by {iso(from_ms(note.ended_ms))}{mended}")


def check_declared(database: Database) -> Iterator[Finding]:
    """Name declared jobs that are none, or may not work, and projects in each other's way."""
    for one in Declarations(database).refusals():
        yield (fail if one.is_refused else warn)("declared", one.text)
    for incident in Incidents(database).of_job(""):
        if incident.kind is TroubleKind.NAMESPACE:
            yield warn("namespace", incident.text)


def check_overload(database: Database) -> Iterator[Finding]:
    """Repeat what the leader's scan found and has not seen end, unless it is looked at here."""
    for incident in Incidents(database).of_job(""):
        if incident.kind in (TroubleKind.BACKLOG, TroubleKind.OVERLAP, TroubleKind.QUEUE):
            yield warn(incident.kind.value, incident.text)


def check_retries(database: Database) -> Iterator[Finding]:
    """Name the runs that wait for the retry of their own task, which is overdue."""
    now_ms = database.now_ms()
    for run in Signs(database).waiting(limit=_LOOKED_AT):
        if run.retry_ms is not None and now_ms - run.retry_ms > RETRY_GRACE_MS:
            yield warn("retry", f"run {run.id} of {run.job_name!r} waits for the retry that a "
                       "worker took with it, or that none takes; it comes again after the broker's "
                       "visibility timeout, or the run is lost")  # fmt: skip


def check_letters(database: Database) -> Finding:
    """Say whether workers lately got messages that they could not read."""
    letters = Letters(database)
    newest = next(iter(letters.latest(limit=1)), None)
    if newest is None or database.now_ms() - newest.at_ms > QUIET_MS:
        return ok("letters", f"no message was unreadable lately, {letters.total()} ever")
    return warn("letters", f"workers could not read messages, the last one from queue "
                 f"{newest.queue!r} at {iso(newest.at)}, {newest.worker}: {newest.why}; "
                 f"{newest.advice}; all: hermes-celery letters")  # fmt: skip


def check_left_behind(left: Callable[[], list[str]]) -> Iterator[Finding]:
    """Name the entries of other schedulers that nothing runs any more.

    `left` returns a sentence for each scheduler, or raises SettingsError.
    """
    try:
        for text in left():
            yield warn("schedules", text)
    except SettingsError as error:
        yield warn("schedules", "; ".join(error.faults))
