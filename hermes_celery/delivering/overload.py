"""Detect that work piles up, or that memory or disk runs out.

    queue      runs wait on a queue that no worker consumes, or from which no worker takes messages
    unfollowed a queue is consumed by workers without our hooks; reported once: it may be intended
    backlog    a queue grows for a minute, or a run waits for five
    overlap    a job loses more than half of its occurrences, because the one before still runs
    memory     the server uses more than nine tenths of the memory that it may use
    disk       the disk of a Hermes home, a worker's or this beat's, is nearly full

The leader checks at every scan, over a bounded number of entries. Each trouble is an incident that
concerns no single job, and is closed here when it is over.
"""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hermes_celery.core.incidents import Incident, Trouble, TroubleKind, incident_id
from hermes_celery.delivering.queue_watch import QueueWatch
from hermes_celery.process.disk import disk_of
from hermes_celery.store import QueueLoad, WorkerSign

if TYPE_CHECKING:
    from hermes_celery.core.incidents import ReportsTroubles
    from hermes_celery.store import Database, Incidents
    from hermes_celery.store.queue_load import HeldBy, RecordedOccurrence

KINDS = {
    TroubleKind.QUEUE: "a worker takes messages from queue '{subject}' again",
    TroubleKind.UNFOLLOWED: "queue '{subject}' no longer has consumers without Cron(app)",
    TroubleKind.BACKLOG: "queue '{subject}' no longer grows, and no run waits long on it",
    TroubleKind.OVERLAP: "Cron {subject} loses fewer occurrences than it runs",
    TroubleKind.MEMORY: "the server has memory left again",
    TroubleKind.DISK: "the disk of the Hermes home on {subject} has room again",
}
#: A leader must have checked for this long before it calls a trouble over.
_SEES_MS = 90_000
#: After a pause this long, earlier checks count no longer.
_BLIND_MS = 60_000
_WINDOW_MS = 600_000
_FEWEST_LOST, _RECORDS, _REMEMBERED, _JOBS = 5, 500, 20_000, 20
#: Shares of the memory that a server may use: an incident opens above one, and closes below the
#: other.
NEARLY_FULL, _ROOMY = 0.9, 0.85
_DISK_SHARE, _DISK_LEAST, _DISK_MOST = 0.05, 100 * 2**20, 10 * 2**30
#: A worker that was not seen for this long will not come back.
_GONE_MS = 3_600_000


class OverloadReport(msgspec.Struct, frozen=True, kw_only=True):
    """The troubles that one scan found, and the incidents that it closed."""

    troubles: list[Trouble]
    #: The ids of the incidents that were closed.
    over: list[str]


class OverloadWatch:
    """The leader's checks of queues, overlaps, memory and disks."""

    def __init__(
        self, database: Database, *, incidents: Incidents, reporter: ReportsTroubles, home: Path
    ) -> None:
        self._load = QueueLoad(database)
        self._incidents = incidents
        self._reporter = reporter
        self._home = home
        self._queues = QueueWatch(database)
        self._overlaps = OverlapWatch(self._load)
        #: The hosts whose disks were checked in this scan.
        self._hosts: set[str] = set()
        self._began_ms = 0
        self._looked_ms = 0

    def scan(self, now_ms: int) -> OverloadReport:
        """Check, report what is wrong, and close what is over. Raises StoreError."""
        if now_ms - self._looked_ms > _BLIND_MS:
            self._began_ms = now_ms
            self._queues.forget()
        self._looked_ms = now_ms
        is_open = {i.id: i for i in self._incidents.of_job("") if i.kind in KINDS}
        troubles, who = self._queues.look(now_ms)
        troubles += self._overlaps.look(now_ms)
        troubles += self._memory(is_open)
        troubles += self._disks(who.signs.values())
        self._forget_workers(now_ms)
        for trouble in troubles:
            if trouble.is_news and trouble.incident_id in is_open:
                continue
            self._reporter.tell(trouble, now_ms=now_ms)
        return OverloadReport(troubles=troubles, over=self._close(is_open, troubles, now_ms))

    def _close(
        self, is_open: dict[str, Incident], troubles: list[Trouble], now_ms: int
    ) -> list[str]:
        lasting = {trouble.incident_id for trouble in troubles}
        over = [
            incident
            for incident in is_open.values()
            if incident.id not in lasting and self._sees(incident, now_ms)
        ]
        for incident in over:
            subject = incident.id.removeprefix(f"{incident.kind.value}-")
            text = KINDS[incident.kind].format(subject=subject)
            self._reporter.over([incident], text, now_ms=now_ms)
        return [incident.id for incident in over]

    def _sees(self, incident: Incident, now_ms: int) -> bool:
        """Return whether enough was checked to say that an incident is over."""
        if incident.kind is TroubleKind.MEMORY:
            return True
        if incident.kind is TroubleKind.DISK:
            return any(incident.id == incident_id(TroubleKind.DISK, host) for host in self._hosts)
        return now_ms - self._began_ms >= _SEES_MS

    def _memory(self, is_open: dict[str, Incident]) -> Iterator[Trouble]:
        used, most = self._load.memory()
        limit = _ROOMY if incident_id(TroubleKind.MEMORY, "") in is_open else NEARLY_FULL
        if most and used / most > limit:
            yield Trouble(kind=TroubleKind.MEMORY, subject="", text=memory_text(used, most))

    def _disks(self, signs: Collection[WorkerSign]) -> Iterator[Trouble]:
        """Yield one trouble for each host with a full disk; a host may have several homes."""
        disks = [(sign.host, sign.disk_free, sign.disk_total) for sign in signs]
        disks.append((socket.gethostname(), *disk_of(self._home)))
        self._hosts = {host for host, _, _ in disks}
        full = {host: (free, total) for host, free, total in disks if is_nearly_full(free, total)}
        for host, (free, total) in sorted(full.items()):
            yield Trouble(kind=TroubleKind.DISK, subject=host, text=disk_text(host, free, total))

    def _forget_workers(self, now_ms: int) -> None:
        signs = self._load.signs()
        gone = [name for name, sign in signs.items() if now_ms - sign.seen_ms > _GONE_MS]
        self._load.forget_workers(gone)


class OverlapWatch:
    """Counts each job's occurrences of the last ten minutes that were lost to overlap."""

    def __init__(self, load: QueueLoad) -> None:
        self._load = load
        self._seen: deque[RecordedOccurrence] = deque(maxlen=_REMEMBERED)
        self._until_ms = 0

    def look(self, now_ms: int) -> list[Trouble]:
        """Return the jobs that lose more than half, worst first. Raises StoreError."""
        since_ms = max(self._until_ms, now_ms - _WINDOW_MS)
        # With a limit, the latest records are read: they show the present state.
        new = self._load.recorded_since(since_ms, limit=_RECORDS)
        self._seen.extend(reversed(new))
        self._until_ms = max((record.at_ms for record in new), default=since_ms)
        while self._seen and self._seen[0].at_ms < now_ms - _WINDOW_MS:
            self._seen.popleft()
        lost = Counter(record.job_id for record in self._seen if record.is_overlap)
        often = {job_id: n for job_id, n in lost.most_common() if n >= _FEWEST_LOST}
        if not often:
            return []
        total = Counter(record.job_id for record in self._seen if record.job_id in often)
        names = {record.job_id: record.job_name for record in self._seen}
        worst = [job_id for job_id, n in often.items() if n * 2 > total[job_id]][:_JOBS]
        return [
            Trouble(
                kind=TroubleKind.OVERLAP,
                subject=job_id,
                text=_overlap_text(
                    job_id, names[job_id], often[job_id], total[job_id],
                    by=self._load.held_by(job_id),
                ),
            )
            for job_id in worst
        ]  # fmt: skip


def _overlap_text(job_id: str, name: str, lost: int, total: int, *, by: HeldBy) -> str:
    what = f"Cron '{name}' lost {lost} of its last {total} occurrences, because an earlier run"
    if by.handed_on:
        return (
            f"{what} was handed on by its task (self.replace, or a message with its own id), and "
            "the message that ends it has not come: perhaps a step of it was lost with its worker, "
            "or waits on a queue that no worker consumes → hermes-celery cancel "
            f"{by.handed_on} lets the job go on"
        )
    if by.queue:
        return (
            f"{what} still waits on queue {by.queue!r} → start a worker that consumes it, or more "
            "of them; hermes-celery status shows the queues"
        )
    return (
        f"{what} was not over → run it less often or make it faster; or hermes-celery edit "
        f"{job_id} --overlap allow"
    )


def memory_text(used: int, most: int) -> str:
    """Return the text for a server whose memory is nearly full."""
    return (
        f"the server uses {used * 100 // most} % of the {most / 2**20:.0f} MB that it may use; "
        "when it is full, nothing can be queued → raise maxmemory, or keep fewer runs "
        "(HERMES_CELERY_KEEP_RUNS)"
    )


def is_nearly_full(free: int, total: int) -> bool:
    """Return whether less than 5 % of a disk (at most 10 GB) or less than 100 MB is free."""
    if not total:
        return False
    return free < max(_DISK_LEAST, min(total * _DISK_SHARE, _DISK_MOST))


def disk_text(host: str, free: int, total: int) -> str:
    """Return the text for a disk that is nearly full."""
    return (
        f"the disk of the Hermes home on {host} has {free / 2**20:.0f} MB free of "
        f"{total / 2**30:.0f} GB → make room: runs that write files, and file:// deliveries, will "
        "fail"
    )
