"""Detect what no run reports by itself.

    late       a run waits for a worker, longer than its job's grace
    missed     an occurrence was dropped, or a job is overdue although a beat leads
    beat       no beat has ticked for 40 s
    workers    work has waited for 30 s, and there is no worker
    letters    a worker could not read a message, in the last 15 minutes

and what `overload` checks. The leader scans after its rescue pass, at most every ten seconds, over
indexes and a bounded number of entries. Each trouble becomes an incident: reported once, reported
when it is over, and silent once a person has acknowledged it (`trouble_reporter`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hermes_celery.core.dead_letters import QUIET_MS
from hermes_celery.core.incidents import Incident, Trouble, TroubleKind
from hermes_celery.core.planning import grace_ms
from hermes_celery.core.run import EndReason
from hermes_celery.delivering.beat_watchdog import NO_BEAT_MS, beat_text
from hermes_celery.delivering.queue_watch import unserved
from hermes_celery.errors import JobNotFound, RecordBroken
from hermes_celery.guards.contained_duty import Duty
from hermes_celery.store import DueIndex, Incidents, Jobs, TroubleSigns

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.core.job import JobSpec
    from hermes_celery.delivering.broken_records import BrokenRecords
    from hermes_celery.delivering.dead_man_switch import SchedulerSwitch
    from hermes_celery.delivering.overload import OverloadWatch
    from hermes_celery.delivering.trouble_reporter import TroubleReporter
    from hermes_celery.store import Database
    from hermes_celery.store.trouble_signs import WaitingRun

EVERY_MS = 10_000
#: Work without a worker for this long is an incident.
_NO_WORKER_MS = 30_000
#: A job counts as overdue after this time, because a returning leader needs some seconds.
_OVERDUE_MS = 120_000
_WAITING, _SKIPPED, _TOLD_AT_ONCE = 100, 500, 20
#: A task's own retry may be overdue for this long.
RETRY_GRACE_MS = 60_000
#: An incident that did not occur for this long is over.
_FORGOTTEN_MS = 30 * 86_400_000


class WatchdogReport(msgspec.Struct, frozen=True, kw_only=True):
    """The findings of one scan."""

    late: int = 0
    missed: int = 0
    is_beat_back: bool = False
    are_workers_gone: bool = False
    are_there_letters: bool = False


class Watchdog:
    """The leader's checks for everything that may be wrong."""

    def __init__(
        self,
        database: Database,
        *,
        reporter: TroubleReporter,
        broken: BrokenRecords,
        clock: Clock,
        switch: SchedulerSwitch | None = None,
        overload: OverloadWatch | None = None,
    ) -> None:
        """Take the collaborators; `broken` gets unreadable records, and ends its own incidents.

        `switch` is pinged while this beat leads. Without `overload` the load is not checked.
        """
        self._database = database
        self._signs = TroubleSigns(database)
        self._due_index = DueIndex(database)
        self._jobs = Jobs(database)
        self._incidents = Incidents(database)
        self._reporter = reporter
        self._broken = broken
        self._switch = switch
        self._overload = overload
        self._duties = {
            name: Duty(f"look for {name}", clock=clock, on_broken=broken)
            for name in (
                "late runs", "missed runs", "overdue jobs", "a beat that was away",
                "missing workers", "overload", "a broken switch", "incidents that are over",
                "unreadable messages", "slots that are free again",
            )
        }  # fmt: skip
        self._scanned_ms = 0
        self._looked_ms = 0
        self._no_worker_since_ms: int | None = None

    def scan(self, now_ms: int) -> WatchdogReport | None:
        """Scan once; return None if the last scan was less than ten seconds ago.

        Raises StoreError.
        """
        if now_ms - self._scanned_ms < EVERY_MS:
            return None
        self._scanned_ms = now_ms
        if self._switch is not None:
            self._switch.ping(now_ms)
        duties = self._duties
        is_paused = duties["a broken switch"].attempt(self._is_paused, False)
        missed = duties["missed runs"].attempt(lambda: self._skipped(now_ms), 0)
        if not is_paused:
            missed += duties["overdue jobs"].attempt(lambda: self._overdue(now_ms), 0)
        report = WatchdogReport(
            late=duties["late runs"].attempt(lambda: self._late(now_ms), 0),
            missed=missed,
            is_beat_back=duties["a beat that was away"].attempt(
                lambda: self._beat_is_back(now_ms), False
            ),
            are_workers_gone=duties["missing workers"].attempt(
                lambda: self._workers_are_gone(now_ms), False
            ),
            are_there_letters=duties["unreadable messages"].attempt(
                lambda: self._are_there_letters(now_ms), False
            ),
        )
        duties["incidents that are over"].attempt(lambda: self._forget(now_ms), None)
        duties["slots that are free again"].attempt(lambda: self._end_stuck(now_ms), None)
        duties["overload"].attempt(lambda: self._look_at_load(now_ms), None)
        return report

    def _is_paused(self) -> bool:
        switch = self._due_index.switch()
        if switch.fault is not None:
            self._broken("", switch.fault.key, switch.fault.what)
        return switch.paused_ms is not None

    def _look_at_load(self, now_ms: int) -> None:
        if self._overload is not None:
            self._overload.scan(now_ms)

    def _late(self, now_ms: int) -> int:
        found = 0
        for run in self._signs.waiting(limit=_WAITING):
            spec = self._spec(run.job_id)
            text = "" if spec is None else _late_text(spec, run, now_ms)
            if spec is None or not text:
                continue
            found += 1
            trouble = Trouble.of_job(spec, TroubleKind.LATE, text, run_id=run.id)
            self._reporter.tell(trouble, now_ms=now_ms)
            if found >= _TOLD_AT_ONCE:
                break
        return found

    def _skipped(self, now_ms: int) -> int:
        """Report occurrences dropped since the last scan; return how many."""
        since_ms = self._looked_ms or now_ms - EVERY_MS
        skipped, self._looked_ms = self._signs.skipped_since(since_ms, limit=_SKIPPED)
        # Do not fall behind a flood of runs: skip to the latest.
        self._looked_ms = max(self._looked_ms, now_ms - 6 * EVERY_MS)
        found = 0
        for run in skipped:
            spec = self._spec(run.job_id)
            if spec is None or not run.reason.startswith((EndReason.MISSED, EndReason.EXPIRED)):
                continue
            found += 1
            text = f"Cron '{spec.name}' did not run: {run.reason} → hermes-celery runs {spec.id}"
            trouble = Trouble.of_job(spec, TroubleKind.MISSED, text, run_id=run.id)
            self._reporter.tell(trouble, now_ms=now_ms)
        return found

    def _overdue(self, now_ms: int) -> int:
        found = self._signs.overdue(now_ms - _OVERDUE_MS, limit=_TOLD_AT_ONCE)
        for job_id in found:
            spec = self._spec(job_id)
            if spec is not None:
                text = (
                    f"Cron '{spec.name}' should have run and did not → hermes-celery show {job_id}"
                )
                self._reporter.tell(Trouble.of_job(spec, TroubleKind.MISSED, text), now_ms=now_ms)
        return len(found)

    def _beat_is_back(self, now_ms: int) -> bool:
        seen_ms = self._signs.leader_seen(now_ms)
        if seen_ms is None or now_ms - seen_ms < NO_BEAT_MS:
            self._reporter.over(self._open(TroubleKind.BEAT), "a beat ticks again", now_ms=now_ms)
            return False
        told = self._open(TroubleKind.BEAT)
        if told:
            self._reporter.over(told, "a beat ticks again", now_ms=now_ms)
        else:
            # No worker reported it in time, so one notice reports both the outage and its end.
            text = f"{beat_text(seen_ms, now_ms)}; a beat ticks again"
            self._reporter.tell(
                Trouble(kind=TroubleKind.BEAT, subject="", text=text), now_ms=now_ms
            )
            self._incidents.close(
                self._open(TroubleKind.BEAT), job_id="", now_ms=now_ms, worked_ms=now_ms
            )
        return True

    def _workers_are_gone(self, now_ms: int) -> bool:
        if self._signs.workers(now_ms):
            self._no_worker_since_ms = None
            self._reporter.over(
                self._open(TroubleKind.WORKERS), "there are workers again", now_ms=now_ms
            )
            return False
        text = unserved(self._database, now_ms=now_ms)
        if not text:
            self._no_worker_since_ms = None
            return False
        since_ms = self._no_worker_since_ms = self._no_worker_since_ms or now_ms
        if now_ms - since_ms < _NO_WORKER_MS:
            return False
        trouble = Trouble(kind=TroubleKind.WORKERS, subject="", text=text, from_here=True)
        self._reporter.tell(trouble, now_ms=now_ms)
        return True

    def _are_there_letters(self, now_ms: int) -> bool:
        newest = self._signs.newest_letter()
        if newest is None or now_ms - newest.at_ms > QUIET_MS:
            text = "no more unreadable messages"
            self._reporter.over(self._open(TroubleKind.LETTERS), text, now_ms=now_ms)
            return False
        text = (
            f"a worker could not read a message on queue {newest.queue!r} ({newest.why}) "
            f"→ hermes-celery letters; {newest.advice}"
        )
        self._reporter.tell(Trouble(kind=TroubleKind.LETTERS, subject="", text=text), now_ms=now_ms)
        return True

    def _forget(self, now_ms: int) -> None:
        for old in self._incidents.quiet_since(now_ms - _FORGOTTEN_MS, limit=_TOLD_AT_ONCE):
            self._incidents.close([old], job_id=old.job_id, now_ms=now_ms, worked_ms=now_ms)
        for one in self._incidents.of_gone_jobs():
            self._incidents.end([one], job_id=one.job_id, now_ms=now_ms)
        self._broken.end_those_over(now_ms)

    def _end_stuck(self, now_ms: int) -> None:
        """End the incidents of stuck work whose worker has gone: the work has ended with it."""
        for incident in self._open(TroubleKind.STUCK):
            worker = self._signs.worker_of(incident.last_run_id or "")
            if not self._signs.is_worker_there(worker, now_ms):
                text = f"worker {worker} has gone, and with it run {incident.last_run_id}"
                self._reporter.over([incident], text, now_ms=now_ms)

    def _open(self, kind: TroubleKind) -> list[Incident]:
        return [i for i in self._incidents.of_job("") if i.kind is kind]

    def _spec(self, job_id: str) -> JobSpec | None:
        try:
            return self._jobs.get(job_id).spec
        except JobNotFound:
            return None
        except RecordBroken as error:
            self._broken(job_id, error.key, error.what)
            return None


def _late_text(spec: JobSpec, run: WaitingRun, now_ms: int) -> str:
    """Return the text for a run that waits too long; "" while it does not."""
    if run.retry_ms is not None:
        if now_ms - run.retry_ms <= RETRY_GRACE_MS:
            return ""
        return (
            f"Cron '{spec.name}' is late: its run's retry is {(now_ms - run.retry_ms) // 1000} s "
            "overdue: no worker takes it, or the worker that had it is gone; it comes again after "
            f"the broker's visibility timeout, or the run is lost → hermes-celery runs {spec.id}"
        )
    if now_ms - run.due_ms <= _grace(spec, now_ms):
        return ""
    return (
        f"Cron '{spec.name}' is late: no worker has taken it from queue {run.queue!r} "
        f"for {(now_ms - run.due_ms) // 1000} s → hermes-celery status"
    )


def _grace(spec: JobSpec, now_ms: int) -> int:
    try:
        return grace_ms(spec.compiled(), spec, now_ms=now_ms)
    except (ValueError, OverflowError):
        return _OVERDUE_MS
