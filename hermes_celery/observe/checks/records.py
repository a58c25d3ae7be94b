"""Check the stored jobs and runs: whether they are complete, readable, and make progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from hermes_celery.core.counted import counted
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
    SweepNotes,
    TroubleSigns,
)
from hermes_celery.store.loss_note import LossNote

#: The most waiting runs that are checked, longest waits first.
_LOOKED_AT = 500
#: The advice for an unreadable key.
REPAIR: Final = "`hermes-celery fsck --repair` repairs it"


def check_jobs(database: Database, loss_note: LossNote) -> Finding:
    """Report whether jobs were lost, as far as the beats' notes show."""
    try:
        lost = lost_jobs(database, loss_note)
        if not lost:
            return ok("jobs", f"{Jobs(database).count()} stored")
    except RecordBroken as error:
        return fail("jobs", f"{error.key} {error.what}; {REPAIR}")
    return fail("jobs", "; and ".join(lost))


def check_records(database: Database, names: BrokerNames) -> Finding:
    """Report whether the shared keys can be used, and the result of the leader's last sweep."""
    shared = SharedKeys(database, names).check(
        CheckMode(now_ms=database.now_ms(), mends=False), shards=Repairs(database).count_shards()
    )
    if shared:
        return fail("records", f"{shared[0].text.split(';')[0]}"
                     f"{f', and {len(shared) - 1} more' if shared[1:] else ''}; "
                     "`hermes-celery fsck --repair` repairs that")  # fmt: skip
    note = SweepNotes(database).read()
    if note.left:
        left = counted(note.left, "disagrees", "disagree")
        return warn("records", f"{left} and could not be repaired; "
                     "`hermes-celery fsck` lists them")  # fmt: skip
    if not note.ended_ms:
        return ok("records", "not compared yet; a beat does that, or `hermes-celery fsck`")
    mended = f", {note.mended} repaired" if note.mended else ""
    jobs = counted(note.jobs, "job")
    return ok("records", f"{jobs} compared by {iso(from_ms(note.ended_ms))}{mended}")


def check_declared(database: Database) -> Iterator[Finding]:
    """Report declared jobs that were refused or may not work, and projects that conflict."""
    for one in Declarations(database).refusals():
        yield (fail if one.is_refused else warn)("declared", one.text)
    for incident in Incidents(database).of_job(""):
        if incident.kind is TroubleKind.NAMESPACE:
            yield warn("namespace", incident.text)


def check_overload(database: Database) -> Iterator[Finding]:
    """Repeat the open overload incidents, except those that other checks examine here."""
    for incident in Incidents(database).of_job(""):
        if incident.kind in (TroubleKind.BACKLOG, TroubleKind.OVERLAP, TroubleKind.QUEUE):
            yield warn(incident.kind.value, incident.text)


def check_retries(database: Database) -> Iterator[Finding]:
    """Report runs that wait for their task's own retry, which is overdue."""
    now_ms = database.now_ms()
    for run in TroubleSigns(database).waiting(limit=_LOOKED_AT):
        if run.retry_ms is not None and now_ms - run.retry_ms > RETRY_GRACE_MS:
            yield warn("retry", f"the retry of run {run.id} of {run.job_name!r} is overdue: no "
                       "worker takes it, or the worker that had it is gone; it comes again after "
                       "the broker's visibility timeout, or the run is lost")  # fmt: skip


def check_letters(database: Database) -> Finding:
    """Report whether workers recently got messages that they could not read."""
    letters = Letters(database)
    newest = next(iter(letters.latest(limit=1)), None)
    if newest is None or database.now_ms() - newest.at_ms > QUIET_MS:
        return ok("letters", f"no unreadable message lately, {letters.total()} in total")
    return warn("letters", f"workers could not read messages, the last one from queue "
                 f"{newest.queue!r} at {iso(newest.at)}, {newest.worker}: {newest.why}; "
                 f"{newest.advice}; all: hermes-celery letters")  # fmt: skip


def check_left_behind(left: Callable[[], list[str]]) -> Iterator[Finding]:
    """Report entries of other schedulers that no program runs any more.

    `left` returns a sentence for each scheduler, or raises SettingsError.
    """
    try:
        for text in left():
            yield warn("schedules", text)
    except SettingsError as error:
        yield warn("schedules", "; ".join(error.faults))
