"""A project moves out of the namespace that all shared: what 0.1.0 kept in `hermes` comes along.

Version 0.1.0 kept the jobs of every project in `hermes`. The leader of a project's own namespace
looks there: jobs that this project declared move, and jobs that were made at run time whose task
only this project has. What is nobody's for sure stays, and is told.

Nothing moves while programs of 0.1.0 are there: their beats would declare the jobs anew, and their
workers would throw away messages whose runs they cannot find. Until they are stopped, and as long
as anything of the project is there, a second beat of this process ticks `hermes` as before, so that
nothing stands still; what the project declares is written once its jobs have moved. A job whose run
a worker performs moves when that has ended. Programs of 0.1.0 make jobs there for as long as they
live: all is looked at again when the last of them is gone, and before the second beat ends.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hermes_celery.core.job import Job, UnreadableJob
from hermes_celery.errors import RecordBroken, StoreError, StoreUnavailable
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.store import FORMAT, Formats, Jobs, Moved, Mover, Neighbours

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.store import Database

_log = logging.getLogger(__name__)
#: How long no program of 0.1.0 may be seen: one that restarts comes back within a few seconds.
_QUIET_MS = 5_000
#: How often programs of 0.1.0 are looked for where nothing is to be moved; one is seen for 10 s.
_LOOK_EVERY_MS = 2_000
#: How many jobs one step looks at, and how many it moves.
_LOOKS, _MOVES = 1_000, 100
#: The most names in one sentence.
_NAMED = 5
#: How long the second beat goes on after it was wanted last.
_WANTED_SECONDS = 15.0
_OURS = ("celery.", "hermes_celery.")


class OldBeat(Protocol):
    """A beat of the old namespace: `Beat`, and its sign."""

    def step(self) -> object:
        """Tick what is due, and sleep."""

    def stop(self) -> None:
        """Give the lease back."""


class SecondBeat:
    """A second beat of this process, in a thread of its own, for as long as it is wanted."""

    def __init__(self, make: Callable[[], OldBeat], *, clock: Clock) -> None:
        self._make = make
        self._clock = clock
        self._until = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def want(self) -> None:
        """Let it tick, for some seconds from now."""
        self._until = self._clock.monotonic() + _WANTED_SECONDS
        if not self._stopped.is_set() and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._loop, name="hermes-old-beat", daemon=True)
            self._thread.start()

    def rest(self) -> None:
        """Let it end after its step; it may be wanted again."""
        self._until = 0.0

    def stop(self) -> None:
        """End it for good, so that another beat can lead there at once."""
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
    """A job that was made at run time, of a task that this project has."""

    name: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnJobs:
    """How a project knows which jobs are its own."""

    #: Who declares its jobs, as each of them has it.
    manager: str
    #: Whether the project has a task of that name.
    knows_task: Callable[[str], bool]


class NamespaceMove:
    """One project's way from the namespace that all shared into its own."""

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
        """`tell` and `over` make an incident, and end it."""
        self._source, self._target = source, target
        self._jobs = Jobs(source)
        self._mover = Mover(source, target)
        self._neighbours = Neighbours(source, namespace=target.keys.namespace)
        self._own = own
        self._tell, self._over = tell, over
        self._second = second
        self._complaint = RateLimitedLog()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._lived_there = False
        self._older_at_ms: int | None = None
        self._looked_ms: int | None = None
        #: The second beat ticks there.
        self._is_beside = False
        #: Nothing was left, and everything is looked at once more before it ends.
        self._is_last_look = False
        #: None: an earlier leader may have said something that is over.
        self._said: str | None = None
        self._moved = 0
        self._look_anew()

    def _look_anew(self) -> None:
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
        """Look anew; whether what the project declares may be written now. For a new leader."""
        self._begin_anew()
        return self.step(now_ms)

    def step(self, now_ms: int) -> bool:
        """Take one step; whether what the project declares may be written now.

        Raises StoreUnavailable. Where this user may not look into the old namespace nothing of the
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
        self._look()
        older = self._older(now_ms)
        waits = bool(older) or self._is_fresh(now_ms)
        if self._older_at_ms is not None and not waits:
            # They may have made jobs until their end.
            self._older_at_ms = None
            self._look_anew()
            self._look()
        if not self._has_work():
            self._settle(now_ms, waits=waits)
            return True
        if waits:
            self._want()
            self._say(self._waiting_text(older))
            return not self._declared
        if self._mover.follow_switch(now_ms=now_ms):
            event(_log, "project.paused", level=logging.WARNING, why="everything was, in hermes")
        self._move(now_ms)
        if self._has_work():
            self._want()
        return True

    def _has_work(self) -> bool:
        return bool(self._declared or self._movable())

    def _want(self) -> None:
        """Let the second beat tick; before it ends everything is looked at again."""
        self._is_beside, self._is_last_look = True, False
        self._second.want()

    def _look(self) -> None:
        """Read what is there: the declared jobs at once, the others page by page."""
        if self._scan is None:
            self._lived_there = self._neighbours.enter() or self._lived_there
            ids = self._jobs.managed_by(self._own.manager)
            self._declared = dict.fromkeys(sorted(self._jobs.stored(ids)))
            self._lived_there = self._lived_there or bool(self._declared)
            self._scan = self._jobs.matching()
        for _ in range(_LOOKS):
            if self._is_scanned:
                return
            job = next(self._scan, None)
            if job is None:
                self._is_scanned = True
            else:
                self._sort_out(job)

    def _sort_out(self, job: Job | UnreadableJob) -> None:
        """Note whether a job moves, stays for somebody else, or is nobody's for sure."""
        if isinstance(job, UnreadableJob):
            self._keep(job.id, job.name or job.id)
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
            self._keep(job.id, job.name)

    def _movable(self) -> list[str]:
        """Jobs made at run time that can only be this project's, once all jobs were looked at."""
        if not self._is_scanned:
            return []
        return [one for one, made in self._made.items() if made.task not in self._foreign_tasks]

    def _older(self, now_ms: int) -> list[str]:
        """Programs of 0.1.0 that live there. Our own workers, which finish runs there, are none."""
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
        ids = [*self._declared, *self._movable()][:_MOVES]
        for job_id, job in self._jobs.get_many(ids).items():
            if isinstance(job, UnreadableJob):
                self._forget(job_id)
                self._keep(job_id, job.name or job_id)
            else:
                self._move_one(job, now_ms)
        for job_id in set(ids) - self._jobs.stored(ids):
            self._forget(job_id)

    def _move_one(self, job: Job, now_ms: int) -> None:
        try:
            answer = self._mover.move(job, now_ms=now_ms)
        except RecordBroken as error:
            # It stays where it is, and so does its name among what is told.
            self._forget(job.id)
            self._keep(job.id, job.name)
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
            self._say(f"job {job.name!r} moves from namespace {self._here!r} to "
                      f"{self._there!r} when its run there has ended")  # fmt: skip

    def _keep(self, job_id: str, name: str) -> None:
        if len(self._unclear) < _LOOKS:
            self._unclear[job_id] = name

    def _forget(self, job_id: str) -> None:
        self._declared.pop(job_id, None)
        self._made.pop(job_id, None)

    def _settle(self, now_ms: int, *, waits: bool) -> None:
        """Nothing is left to move: say what stays, or that all is well."""
        if self._moved:
            event(_log, "project.moved", jobs=self._moved, from_=self._here, to=self._there)
            self._moved = 0
        if not self._is_scanned:
            if self._is_beside:
                self._second.want()
            return
        unclear = self._leftovers(now_ms)
        if unclear:
            self._want()
            self._say(unclear)
            return
        if waits and self._lived_there:
            # Programs of 0.1.0 may make jobs as long as they live.
            self._want()
        elif self._is_beside and not self._is_last_look:
            self._is_last_look = True
            self._look_anew()
            self._step(now_ms)
            return
        else:
            self._second.rest()
            self._is_beside = False
        if self._said != "":
            self._over(f"all jobs of this project are in namespace {self._there!r}")
            self._said = ""

    def _leftovers(self, now_ms: int) -> str:
        """What to say of jobs that may be ours, where nobody else takes care of them."""
        if not self._lived_there:
            return ""
        for job_id, made in self._made.items():
            if made.task in self._foreign_tasks:
                self._keep(job_id, made.name)
        there = self._jobs.stored(list(self._unclear))
        names = [name for job_id, name in self._unclear.items() if job_id in there]
        if not names:
            return ""
        others = Formats(self._source).living(now_ms=now_ms)
        mine = Formats(self._target).living(now_ms=now_ms)
        if set(others) - set(mine):
            return ""
        shown = ", ".join(names[:_NAMED]) + (", ..." if names[_NAMED:] else "")
        runs, them = ("it runs", "it") if len(names) == 1 else ("they run", "them")
        return (
            f"{_counted(len(names))} in namespace {self._here!r} may be of this project, or of "
            f"nobody: {shown}; {runs} on from there; take {them} along with `hermes-celery -N "
            f"{self._there} move JOB`, or remove {them} with `hermes-celery -N {self._here} "
            "remove JOB`"
        )

    def _waiting_text(self, older: list[str]) -> str:
        count = len(self._declared) + len(self._movable())
        who = ", ".join(older) or "seen a few seconds ago"
        goes, moves = ("goes", "job moves") if count == 1 else ("go", "jobs move")
        return (
            f"{_counted(count)} of this project in namespace {self._here!r} {goes} on from there, "
            f"because programs of version 0.1.0 are there ({who}); when they are stopped, the "
            f"{moves} to namespace {self._there!r} and what the project declares is written"
        )

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            event(_log, "project.moves", level=logging.WARNING, why=text)
            self._tell(text)

    @property
    def _here(self) -> str:
        return self._source.keys.namespace

    @property
    def _there(self) -> str:
        return self._target.keys.namespace


def _counted(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
