"""Move a project's jobs out of the namespace `hermes`, which all projects shared in version 0.1.0.

The leader of a project's own namespace checks `hermes`. It moves the jobs that this project
declared, and the jobs made at run time whose task only this project has. Jobs whose owner is
unclear stay, and are reported as an incident.

Nothing moves while programs of 0.1.0 live there: their beats would declare the jobs again, and
their workers would discard messages whose runs they cannot find. Until those programs are stopped,
and while jobs of the project are there, a second beat of this process ticks `hermes` as before, so
that its jobs go on. The project's declared jobs are written once its jobs have moved. A job whose
run is being performed moves when the run has ended. Programs of 0.1.0 may create jobs as long as
they live, so all jobs are read again when the last of them is gone, and before the second beat
ends.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hermes_celery.core.counted import counted
from hermes_celery.core.job import Job, UnreadableJob
from hermes_celery.errors import RecordBroken, StoreError, StoreUnavailable
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.store import FORMAT, Formats, Jobs, Moved, Mover, Neighbours

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.store import Database

_log = logging.getLogger(__name__)
#: No program of 0.1.0 may be seen for this long: one that restarts is back within a few seconds.
_QUIET_MS = 5_000
#: How often to check for programs of 0.1.0 when there is nothing to move. Each stays visible 10 s.
_LOOK_EVERY_MS = 2_000
#: Jobs that one step reads, and jobs that it moves.
_MOST_READ, _MOST_MOVED = 1_000, 100
#: The most names in one sentence.
_NAMED = 5
#: The second beat stops this long after it was last wanted.
_WANTED_SECONDS = 15.0
_OURS = ("celery.", "hermes_celery.")


class OldBeat(Protocol):
    """A beat of the old namespace: a `Beat` together with its registration."""

    def step(self) -> object:
        """Tick the due jobs, then sleep."""

    def stop(self) -> None:
        """Release the lease."""


class SecondBeat:
    """A second beat of this process, in its own thread, while it is wanted."""

    def __init__(self, make: Callable[[], OldBeat], *, clock: Clock) -> None:
        self._make = make
        self._clock = clock
        self._until = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def want(self) -> None:
        """Keep the beat ticking for some seconds from now."""
        self._until = self._clock.monotonic() + _WANTED_SECONDS
        if not self._stopped.is_set() and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._loop, name="hermes-old-beat", daemon=True)
            self._thread.start()

    def rest(self) -> None:
        """End the beat after its current step; `want` starts it again."""
        self._until = 0.0

    def stop(self) -> None:
        """Stop the beat permanently, so that another beat can lead there at once."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=2)

    def _loop(self) -> None:
        beat = self._make()
        try:
            while not self._stopped.is_set() and self._clock.monotonic() < self._until:
                beat.step()
        finally:
            beat.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A job that was made at run time, and whose task this project has."""

    name: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnJobs:
    """Identifies a project's own jobs."""

    #: The manager's name, as stored in each of the project's declared jobs.
    manager: str
    #: Returns whether the project has a task of that name.
    knows_task: Callable[[str], bool]


class NamespaceMove:
    """The move of one project from the shared namespace into its own."""

    def __init__(
        self,
        source: Database,
        target: Database,
        *,
        own: OwnJobs,
        tell: Callable[[str], None],
        over: Callable[[str], None],
        second: SecondBeat,
    ) -> None:
        """Take the two namespaces; `tell` records an incident with a text, `over` ends it."""
        self._source, self._target = source, target
        self._jobs = Jobs(source)
        self._mover = Mover(source, target)
        self._neighbours = Neighbours(source, namespace=target.keys.namespace)
        self._own = own
        self._tell, self._over = tell, over
        self._second = second
        self._complaint = RateLimitedLog()
        self._start_over()

    def _start_over(self) -> None:
        self._lived_there = False
        self._older_at_ms: int | None = None
        self._looked_ms: int | None = None
        #: Whether the second beat ticks there.
        self._second_ticks = False
        #: Nothing was left to move; all jobs are checked a second and last time.
        self._is_last_look = False
        #: The last reported text; None if an earlier leader may have recorded an incident.
        self._reported: str | None = None
        self._moved = 0
        self._restart_scan()

    def _restart_scan(self) -> None:
        self._declared: dict[str, None] = {}
        self._made: dict[str, _Made] = {}
        self._foreign_tasks: set[str] = set()
        self._unclear: dict[str, str] = {}
        self._scan: Iterator[Job | UnreadableJob] | None = None
        self._is_scanned = False

    @property
    def left(self) -> frozenset[str]:
        """The ids of declared jobs that are still in the old namespace."""
        return frozenset(self._declared)

    def begin(self, now_ms: int) -> bool:
        """Start over as a new leader; return whether declared jobs may be written now."""
        self._start_over()
        return self.step(now_ms)

    def step(self, now_ms: int) -> bool:
        """Do one step of the move; return whether declared jobs may be written now.

        Raises StoreUnavailable. If this Redis user may not read the old namespace, no jobs of the
        project can be there.
        """
        try:
            return self._step(now_ms)
        except StoreUnavailable:
            raise
        except StoreError as error:
            if self._complaint.may_say(now_ms / 1000):
                event(_log, "project.not_moved", level=logging.WARNING, why=error)
            return not self._declared

    def stop(self) -> None:
        """Stop the second beat."""
        self._second.stop()

    def _step(self, now_ms: int) -> bool:
        self._read_jobs()
        older = self._older(now_ms)
        waits = bool(older) or self._is_fresh(now_ms)
        if self._older_at_ms is not None and not waits:
            # Programs of 0.1.0 may have created jobs until they ended.
            self._older_at_ms = None
            self._restart_scan()
            self._read_jobs()
        if not self._has_work():
            self._settle(now_ms, waits=waits)
            return True
        if waits:
            self._want()
            self._report(self._waiting_text(older))
            return not self._declared
        if self._mover.follow_switch(now_ms=now_ms):
            event(_log, "project.paused", level=logging.WARNING, why="jobs in hermes were paused")
        self._move(now_ms)
        if self._has_work():
            self._want()
        return True

    def _has_work(self) -> bool:
        return bool(self._declared or self._movable())

    def _want(self) -> None:
        """Keep the second beat ticking; before it ends all jobs are read again."""
        self._second_ticks, self._is_last_look = True, False
        self._second.want()

    def _read_jobs(self) -> None:
        """Read the jobs in the old namespace: declared ones at once, others page by page."""
        if self._scan is None:
            self._lived_there = self._neighbours.enter() or self._lived_there
            ids = self._jobs.managed_by(self._own.manager)
            self._declared = dict.fromkeys(sorted(self._jobs.stored(ids)))
            self._lived_there = self._lived_there or bool(self._declared)
            self._scan = self._jobs.matching()
        for _ in range(_MOST_READ):
            if self._is_scanned:
                return
            job = next(self._scan, None)
            if job is None:
                self._is_scanned = True
            else:
                self._sort_out(job)

    def _sort_out(self, job: Job | UnreadableJob) -> None:
        """Note whether a job moves, belongs to another project, or has no clear owner."""
        if isinstance(job, UnreadableJob):
            self._note_unclear(job.id, job.name or job.id)
            return
        spec = job.spec
        task = spec.task.name if spec.task else ""
        if spec.managed_by == self._own.manager:
            self._declared[job.id] = None
            self._lived_there = True
        elif spec.managed_by is not None:
            self._foreign_tasks.add(task)
        elif task and not task.startswith(_OURS) and self._own.knows_task(task):
            self._made[job.id] = _Made(name=job.name, task=task)
        else:
            self._note_unclear(job.id, job.name)

    def _movable(self) -> list[str]:
        """Return jobs made at run time that can only be this project's; none until all are read."""
        if not self._is_scanned:
            return []
        return [one for one, made in self._made.items() if made.task not in self._foreign_tasks]

    def _older(self, now_ms: int) -> list[str]:
        """Return the programs of 0.1.0 that live there.

        Our own workers also finish runs there; they are left out.
        """
        if not self._has_work() and self._has_looked(now_ms):
            return []
        self._looked_ms = now_ms
        older = Formats(self._source).older_than(FORMAT, now_ms=now_ms)
        ours = Formats(self._target).living(now_ms=now_ms)
        older = [name for name in older if name not in ours]
        if older:
            self._older_at_ms = now_ms
        return older

    def _has_looked(self, now_ms: int) -> bool:
        return self._looked_ms is not None and now_ms - self._looked_ms < _LOOK_EVERY_MS

    def _is_fresh(self, now_ms: int) -> bool:
        return self._older_at_ms is not None and now_ms - self._older_at_ms < _QUIET_MS

    def _move(self, now_ms: int) -> None:
        ids = [*self._declared, *self._movable()][:_MOST_MOVED]
        for job_id, job in self._jobs.get_many(ids).items():
            if isinstance(job, UnreadableJob):
                self._forget(job_id)
                self._note_unclear(job_id, job.name or job_id)
            else:
                self._move_one(job, now_ms)
        for job_id in set(ids) - self._jobs.stored(ids):
            self._forget(job_id)

    def _move_one(self, job: Job, now_ms: int) -> None:
        try:
            answer = self._mover.move(job, now_ms=now_ms)
        except RecordBroken as error:
            # The job stays in the old namespace, and is named in the incident.
            self._forget(job.id)
            self._note_unclear(job.id, job.name)
            event(_log, "job.not_moved", level=logging.ERROR, job=job.name, why=error)
            return
        if answer in (Moved.OK, Moved.THERE):
            self._forget(job.id)
            if not self._moved:
                self._neighbours.note_moved()
            self._moved += 1
            self._lived_there = True
            event(_log, "job.moved", job=job.name, from_=self._here, to=self._there)
        elif answer is Moved.RUNNING:
            self._report(f"job {job.name!r} moves from namespace {self._here!r} to "
                      f"{self._there!r} once its run there has ended")  # fmt: skip

    def _note_unclear(self, job_id: str, name: str) -> None:
        if len(self._unclear) < _MOST_READ:
            self._unclear[job_id] = name

    def _forget(self, job_id: str) -> None:
        self._declared.pop(job_id, None)
        self._made.pop(job_id, None)

    def _settle(self, now_ms: int, *, waits: bool) -> None:
        """Report the jobs that stay, or end the incident. Called when nothing is left to move."""
        if self._moved:
            event(_log, "project.moved", jobs=self._moved, from_=self._here, to=self._there)
            self._moved = 0
        if not self._is_scanned:
            if self._second_ticks:
                self._second.want()
            return
        unclear = self._leftovers(now_ms)
        if unclear:
            self._want()
            self._report(unclear)
            return
        if waits and self._lived_there:
            # Programs of 0.1.0 may create jobs as long as they live.
            self._want()
        elif self._second_ticks and not self._is_last_look:
            self._is_last_look = True
            self._restart_scan()
            self._step(now_ms)
            return
        else:
            self._second.rest()
            self._second_ticks = False
        if self._reported != "":
            self._over(f"all jobs of this project are in namespace {self._there!r}")
            self._reported = ""

    def _leftovers(self, now_ms: int) -> str:
        """Return the text about jobs without a clear owner; "" if another program ticks them."""
        if not self._lived_there:
            return ""
        for job_id, made in self._made.items():
            if made.task in self._foreign_tasks:
                self._note_unclear(job_id, made.name)
        there = self._jobs.stored(list(self._unclear))
        names = [name for job_id, name in self._unclear.items() if job_id in there]
        if not names:
            return ""
        others = Formats(self._source).living(now_ms=now_ms)
        mine = Formats(self._target).living(now_ms=now_ms)
        if set(others) - set(mine):
            return ""
        shown = ", ".join(names[:_NAMED]) + (", ..." if names[_NAMED:] else "")
        still, them = ("it still runs", "it") if len(names) == 1 else ("they still run", "them")
        return (
            f"{counted(len(names), 'job')} in namespace {self._here!r} may belong to this project: "
            f"{shown}; {still} there; move {them} with `hermes-celery -N {self._there} move JOB`, "
            f"or remove {them} with `hermes-celery -N {self._here} remove JOB`"
        )

    def _waiting_text(self, older: list[str]) -> str:
        count = len(self._declared) + len(self._movable())
        who = ", ".join(older) or "last seen a few seconds ago"
        still, moves = ("still runs", "job moves") if count == 1 else ("still run", "jobs move")
        return (
            f"{counted(count, 'job')} of this project {still} in namespace {self._here!r}, because "
            f"programs of version 0.1.0 are there ({who}); once you stop them, the {moves} to "
            f"namespace {self._there!r} and the project's declared jobs are written"
        )

    def _report(self, text: str) -> None:
        if text != self._reported:
            self._reported = text
            event(_log, "project.moves", level=logging.WARNING, why=text)
            self._tell(text)

    @property
    def _here(self) -> str:
        return self._source.keys.namespace

    @property
    def _there(self) -> str:
        return self._target.keys.namespace
