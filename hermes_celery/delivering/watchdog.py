"""Troubles that no run reports of itself: late, missed, no beat, no workers, dead letters.

    late       a run waits for a worker, longer than its job's grace
    missed     an occurrence was dropped, or a job is overdue although a beat leads
    beat       no beat ticked for 30 s
    workers    there is work on any queue and no worker for 30 s
    letters    a message that nobody can read, in the last 15 minutes

and what `overload` looks at.

The leader scans after its rescue pass, at most every ten seconds, over indexes and a bounded number
of entries. While no beat leads, every worker watches for that (`watch_beat`). Each trouble is an
incident: told once, told when it is over, quiet when somebody acknowledged it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from hermes_celery.core.incidents import Incident, TroubleKind, incident_id, is_worth_telling
from hermes_celery.core.letters import QUIET_MS
from hermes_celery.core.planning import grace_ms
from hermes_celery.delivering.dead_man_switch import Ping, Pinger, PingSignal
from hermes_celery.delivering.plan import failure_target
from hermes_celery.errors import JobNotFound, RecordBroken, StoreError
from hermes_celery.events import event
from hermes_celery.guards.duty import Duty
from hermes_celery.guards.on_broken import OnBroken, ignored
from hermes_celery.instant import from_ms

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.core.job import JobSpec
    from hermes_celery.delivering.overload import OverloadWatch
    from hermes_celery.store import Deliveries, DueIndex, Incidents, Jobs, Signs
    from hermes_celery.store.health import WaitingRun

_log = logging.getLogger(__name__)

EVERY_MS = 10_000
#: So long without a beat, or with work and no worker, is trouble.
TROUBLE_MS = 30_000
_PING_EVERY_MS = 60_000
#: Nothing is called overdue before; a leader that has just come back needs some seconds.
_OVERDUE_MS = 120_000
_WAITING, _SKIPPED, _TOLD_AT_ONCE = 100, 500, 20
#: So long a retry of a task's own may be overdue.
_RETRY_GRACE_MS = 60_000
#: An incident that nobody heard of for so long is over.
_FORGOTTEN_MS = 30 * 86_400_000


class WatchdogReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one scan found."""

    late: int = 0
    missed: int = 0
    is_beat_back: bool = False
    are_workers_gone: bool = False
    are_there_letters: bool = False


class TroubleReporter:
    """Turns a trouble into an incident and, when it is worth it, into a notice."""

    def __init__(
        self,
        *,
        incidents: Incidents,
        deliveries: Deliveries,
        alerts: str,
        send_now: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`send_now` delivers a notice from here, where no worker would."""
        self._incidents = incidents
        self._deliveries = deliveries
        self._alerts = alerts
        self._send_now = send_now

    def tell(
        self,
        kind: TroubleKind,
        subject: str,
        text: str,
        *,
        now_ms: int,
        spec: JobSpec | None = None,
        run_id: str = "",
        from_here: bool = False,
        job_id: str = "",
    ) -> bool:
        """Count a trouble, and have it told if that is due; whether it is told now.

        `job_id` is for a job without a `spec`, since it cannot be read.
        """
        incident = incident_id(kind, subject)
        noted = self._incidents.note(
            incident,
            kind,
            text,
            now_ms=now_ms,
            job_id=spec.id if spec else job_id,
            job_name=spec.name if spec else "",
            run_id=run_id,
        )
        if not is_worth_telling(noted.count, told=noted.told, is_acked=noted.is_acked):
            return False
        event(_log, "incident.told", level=logging.WARNING, incident=incident, count=noted.count)
        return self._notice(
            incident, f"⚠️ {text}", spec=spec, count=noted.count, now_ms=now_ms, now=from_here
        )

    def over(self, incidents: list[Incident], text: str, *, now_ms: int) -> None:
        """End incidents, and tell that to whoever hears alerts, if they were told."""
        for incident in incidents:
            closed = self._incidents.close(
                [incident], job_id=incident.job_id, now_ms=now_ms, worked_ms=now_ms
            )
            if closed and incident.told:
                # The closed incident's count is past what was told, so that this is told too.
                self._notice(
                    incident.id, f"✅ {text}", spec=None, count=incident.told + 1, now_ms=now_ms
                )

    def _notice(
        self,
        incident: str,
        text: str,
        *,
        spec: JobSpec | None,
        count: int,
        now_ms: int,
        now: bool = False,
    ) -> bool:
        notice = f"notice-{incident}-{count}-{now_ms}"
        made = self._deliveries.notice(
            notice,
            text,
            deliver=failure_target(spec) if spec else self._alerts,
            job_id=spec.id if spec else "",
            incident=incident,
            count=count,
            now_ms=now_ms,
        )
        if made and now:
            self._send_now(notice)
        return made


class Watchdog:
    """The leader's scan."""

    def __init__(
        self,
        *,
        signs: Signs,
        due_index: DueIndex,
        jobs: Jobs,
        incidents: Incidents,
        reporter: TroubleReporter,
        pinger: Pinger,
        clock: Clock,
        ping_url: str = "",
        overload: OverloadWatch | None = None,
        on_broken: OnBroken = ignored,
        end_broken: Callable[[int], int] = lambda now_ms: 0,
        unserved: Callable[[int], str],
    ) -> None:
        """`unserved` says what waits on queues that nobody consumes; "": nothing.

        `on_broken` hears of what cannot be read; `end_broken` ends what it made of that.
        """
        self._unserved = unserved
        self._overload = overload
        self._on_broken = on_broken
        self._end_broken = end_broken
        self._duties = {
            name: Duty(f"look for {name}", clock=clock, on_broken=on_broken)
            for name in (
                "late runs", "missed runs", "overdue jobs", "a beat that was away",
                "missing workers", "overload", "a broken switch", "incidents that are over",
                "unreadable messages", "slots that are free again",
            )
        }  # fmt: skip
        self._signs = signs
        self._due_index = due_index
        self._jobs = jobs
        self._incidents = incidents
        self._reporter = reporter
        self._pinger = pinger
        self._ping_url = ping_url
        self._scanned_ms = 0
        self._pinged_ms = 0
        self._looked_ms = 0
        self._no_worker_since_ms: int | None = None

    def scan(self, now_ms: int) -> WatchdogReport | None:
        """Look once; None when the last scan is less than ten seconds ago. Raises StoreError."""
        if now_ms - self._scanned_ms < EVERY_MS:
            return None
        self._scanned_ms = now_ms
        self._ping(now_ms)
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
            self._on_broken("", switch.fault.key, switch.fault.what)
        return switch.paused_ms is not None

    def _look_at_load(self, now_ms: int) -> None:
        if self._overload is not None:
            self._overload.scan(now_ms)

    def _ping(self, now_ms: int) -> None:
        if self._ping_url and now_ms - self._pinged_ms >= _PING_EVERY_MS:
            self._pinged_ms = now_ms
            self._pinger.send(Ping(url=self._ping_url, signal=PingSignal.SUCCESS))

    def _late(self, now_ms: int) -> int:
        found = 0
        for run in self._signs.waiting(limit=_WAITING):
            spec = self._spec(run.job_id)
            text = "" if spec is None else _late_text(spec, run, now_ms)
            if spec is None or not text:
                continue
            found += 1
            self._reporter.tell(
                TroubleKind.LATE, spec.id, text, now_ms=now_ms, spec=spec, run_id=run.id
            )
            if found >= _TOLD_AT_ONCE:
                break
        return found

    def _skipped(self, now_ms: int) -> int:
        """Occurrences that were dropped since the last scan; the first scan only begins to look."""
        since_ms = self._looked_ms or now_ms - EVERY_MS
        skipped, self._looked_ms = self._signs.skipped_since(since_ms, limit=_SKIPPED)
        # Rather than fall behind a flood of runs, look at the latest.
        self._looked_ms = max(self._looked_ms, now_ms - 6 * EVERY_MS)
        found = 0
        for run in skipped:
            spec = self._spec(run.job_id)
            if spec is None or not run.reason.startswith(("missed", "expired")):
                continue
            found += 1
            text = f"Cron '{spec.name}' did not run: {run.reason} → hermes-celery runs {spec.id}"
            self._reporter.tell(
                TroubleKind.MISSED, spec.id, text, now_ms=now_ms, spec=spec, run_id=run.id
            )
        return found

    def _overdue(self, now_ms: int) -> int:
        found = self._signs.overdue(now_ms - _OVERDUE_MS, limit=_TOLD_AT_ONCE)
        for job_id in found:
            spec = self._spec(job_id)
            if spec is not None:
                text = (
                    f"Cron '{spec.name}' should have run and did not → hermes-celery show {job_id}"
                )
                self._reporter.tell(TroubleKind.MISSED, job_id, text, now_ms=now_ms, spec=spec)
        return len(found)

    def _beat_is_back(self, now_ms: int) -> bool:
        seen_ms = self._signs.leader_seen(now_ms)
        if seen_ms is None or now_ms - seen_ms < TROUBLE_MS + EVERY_MS:
            self._reporter.over(self._open(TroubleKind.BEAT), "a beat ticks again", now_ms=now_ms)
            return False
        told = self._open(TroubleKind.BEAT)
        if told:
            self._reporter.over(told, "a beat ticks again", now_ms=now_ms)
        else:
            # Nobody noticed in time, so one notice says both that it was so and that it is over.
            text = f"{beat_text(seen_ms, now_ms)}; one does again"
            self._reporter.tell(TroubleKind.BEAT, "", text, now_ms=now_ms)
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
        text = self._unserved(now_ms)
        if not text:
            self._no_worker_since_ms = None
            return False
        since_ms = self._no_worker_since_ms = self._no_worker_since_ms or now_ms
        if now_ms - since_ms < TROUBLE_MS:
            return False
        self._reporter.tell(TroubleKind.WORKERS, "", text, now_ms=now_ms, from_here=True)
        return True

    def _are_there_letters(self, now_ms: int) -> bool:
        newest = self._signs.newest_letter()
        if newest is None or now_ms - newest.at_ms > QUIET_MS:
            text = "no more messages that nobody can read"
            self._reporter.over(self._open(TroubleKind.LETTERS), text, now_ms=now_ms)
            return False
        text = (
            f"a worker could not read a message on queue {newest.queue!r} ({newest.why}) "
            f"→ hermes-celery letters; {newest.advice}"
        )
        self._reporter.tell(TroubleKind.LETTERS, "", text, now_ms=now_ms)
        return True

    def _forget(self, now_ms: int) -> None:
        for old in self._incidents.quiet_since(now_ms - _FORGOTTEN_MS, limit=_TOLD_AT_ONCE):
            self._incidents.close([old], job_id=old.job_id, now_ms=now_ms, worked_ms=now_ms)
        for one in self._incidents.of_gone_jobs():
            self._incidents.end([one], job_id=one.job_id, now_ms=now_ms)
        self._end_broken(now_ms)

    def _end_stuck(self, now_ms: int) -> None:
        """What went on in a slot of a worker has ended with that worker at the latest."""
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
            self._on_broken(job_id, error.key, error.what)
            return None


def watch_beat(signs: Signs, reporter: TroubleReporter, *, now_ms: int) -> bool:
    """For workers: tell when there are jobs and no beat ticks; whether that is so."""
    seen_ms = signs.leader_seen_at()
    if seen_ms is None or now_ms - seen_ms < TROUBLE_MS + EVERY_MS or not signs.has_jobs():
        return False
    text = beat_text(seen_ms, now_ms) + " → celery -A hermes_celery beat"
    reporter.tell(TroubleKind.BEAT, "", text, now_ms=now_ms, from_here=True)
    return True


class BeatWatchdog:
    """`watch_beat` every ten seconds, from a thread of a worker."""

    def __init__(self, signs: Signs, reporter: TroubleReporter, *, clock: Clock) -> None:
        self._signs = signs
        self._reporter = reporter
        self._clock = clock

    def start(self) -> None:
        """Begin; it ends with the process."""
        threading.Thread(target=self._loop, name="hermes-watch", daemon=True).start()

    def _loop(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(EVERY_MS / 1000)
            try:
                watch_beat(self._signs, self._reporter, now_ms=self._clock.now_ms())
            except StoreError as error:
                event(_log, "watch.failed", level=logging.WARNING, why=error)
            except Exception as error:  # noqa: BLE001 - the thread must outlive what it ran into
                event(_log, "watch.failed", level=logging.ERROR, exc_info=error, why=error)


def beat_text(seen_ms: int, now_ms: int) -> str:
    """For how long no beat ticked."""
    minutes, seconds = divmod((now_ms - seen_ms) // 1000, 60)
    return (
        f"no beat has ticked for {minutes} min {seconds} s, since {from_ms(seen_ms):%H:%M:%S} UTC"
    )


def _late_text(spec: JobSpec, run: WaitingRun, now_ms: int) -> str:
    """What is said of a run that waits too long; "" while it does not."""
    if run.retry_ms is not None:
        if now_ms - run.retry_ms <= _RETRY_GRACE_MS:
            return ""
        return (
            f"Cron '{spec.name}' is late: for {(now_ms - run.retry_ms) // 1000} s its run waits "
            "for the retry that a worker took with it, or that none takes; it comes again after "
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
