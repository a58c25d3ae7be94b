"""A real Celery project while everything breaks: its own tasks and Celery's own commands, no fakes.

    python -m tests.proof.project_soak --minutes 10

Two beats and three workers (prefork and threads) of `tests/projects/soaked` run on a server of
their own. They are killed, frozen and cut off from a server that restarts, while queued runs are
revoked. The tasks are plain, or have a lifetime, build their messages one by one, retry, replace
themselves, or share a group. Then the faults stop, and every job has to run. The whole history is
judged: what the tasks wrote down on disk against what is on record.

Waits are the real ones: a message that vanished is pushed again after a minute.
"""

from __future__ import annotations

import math
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import msgspec
from celery import Celery

from bench.server import BenchError, wait_until
from hermes_celery.core.job import Job, JobState
from hermes_celery.core.policy import OnLost
from hermes_celery.core.run import Run, RunState
from hermes_celery.instant import to_ms
from hermes_celery.settings import read_settings
from hermes_celery.store import Database, Jobs, Runs, connect
from hermes_celery.store.keys import Keys
from hermes_celery.wiring.client import open_cron
from tests.proof.history import History, Span, Start, all_records
from tests.proof.history_checker import Verdict, check
from tests.proof.soak_disturbances import (
    Disturbances,
    Disturbed,
    Member,
    Server,
    inherited_environment,
    wait_for,
)
from tests.proof.soak_verdict import cared_for, silently_stopped

_PROJECT = "soaked"
_FOLDER = Path(__file__).parent.parent / "projects" / _PROJECT
_ROOT = Path(__file__).parent.parent.parent
_CALM_SECONDS = 8.0
_CLOCKS_SECONDS = 0.02
_LATE_AFTER = timedelta(minutes=8)
_MOMENT = timedelta(milliseconds=1)
#: Tasks that start a run; later parts of a run are counted separately.
_FIRST = frozenset({"plain", "fresh", "stamped", "handed", "busy", "grouped"})


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one round."""

    seconds: float
    #: Jobs of each kind, each due every second.
    jobs: int = 3
    fault_seconds: float = 2.0
    quiet_seconds: float = 10.0
    fsync: str = "everysec"
    #: Names of the faults of `Round._fault` to use; empty means all.
    faults: tuple[str, ...] = ()
    #: Time for waiting runs to end after the faults.
    settle_seconds: float = 400.0
    #: A bug to plant, from `tests/projects/soaked/planted.py`.
    plant: str = ""
    seed: int = 1


class Figures(Disturbances, kw_only=True):
    """Counts of the faults of one round."""

    revoked: int = 0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one round."""

    verdict: Verdict
    figures: Figures
    starts: int
    #: Starts of later parts of runs: Celery retries, replacements.
    continued: int
    stopped: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """True if there is no fault."""
        return self.verdict.valid and not self.stopped and not self.others

    def faults(self) -> str:
        """Return the first few faults of each kind as readable text."""
        lines = [self.verdict.faults()]
        for kind, found in (("silently stopped", self.stopped), ("others", self.others)):
            if found:
                lines.append(f"{kind} {len(found)}: " + "; ".join(found[:8]))
        return "\n".join(line for line in lines if line)


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """One start, as a task of the project wrote it down."""

    run_id: str
    attempt: int
    what: str
    number: int
    #: Unix seconds.
    at: float


class Round(Disturbed):
    """One round of the soak."""

    def __init__(self, plan: Plan, home: Path, stack: ExitStack) -> None:
        self._plan = plan
        self._figures: Figures = Figures()
        self._starts = home / "starts"
        self._starts.mkdir()
        server = Server(home, fsync=plan.fsync)
        stack.callback(server.stop)
        self._url = f"redis://127.0.0.1:{server.port}/0"
        database = Database(connect(self._url), keys=Keys(namespace=_PROJECT))
        super().__init__(server, database, random.Random(plan.seed))
        stack.callback(self._database.close)
        wait_until(self._answers, what="the server answers")
        self._jobs, self._runs = Jobs(self._database), Runs(self._database)
        self._cron = open_cron(read_settings(
            {"HERMES_REDIS_URL": self._url, "HERMES_CELERY_NAMESPACE": _PROJECT,
             "HERMES_HOME": str(home)}
        ))  # fmt: skip
        self._control = Celery(_PROJECT, broker=self._url, set_as_current=False).control
        self._log = home / "children.log"
        self._home = home
        self._beats = [self._member("beat", f"b{i}") for i in range(2)]
        self._workers = [
            self._member("worker", "w0", "--pool", "prefork", "-c", "3"),
            self._member("worker", "w1", "--pool", "threads", "-c", "3"),
            self._member("worker", "w2", "--pool", "prefork", "-c", "2"),
        ]
        stack.callback(self._end_all)
        self._revoked: set[str] = set()

    def run(self) -> Result:
        """Disturb, calm down, settle, and judge."""
        wait_until(self._is_declared, what="the project's jobs are declared", seconds=60, poll=0.1)
        first = {job.id: job for job in self._all_jobs()}
        self._disturb(
            self._plan.seconds,
            first_seconds=3,
            fault_seconds=self._plan.fault_seconds,
            deed_seconds=0.1,
        )
        self._calm(calm_seconds=_CALM_SECONDS, late_ms=2000, settle_seconds=120)
        stopped = tuple(self._stopped())
        # A stopped job is reported as such; it has no next occurrence to judge up to.
        spans = [span for job in first.values() if (span := self._paused(job)) is not None]
        self._settle()
        self._end_all()
        records = all_records(self._runs)
        lines = list(self._lines())
        return Result(
            verdict=check(_history(spans, records, lines), late_after=_LATE_AFTER),
            figures=self._figures,
            starts=len(lines),
            continued=sum(not _is_first(line) for line in lines),
            stopped=stopped,
            others=tuple(_others(records, lines, self._revoked)),
        )

    def _fault(self) -> None:
        pick = self._dice.choice
        faults: dict[str, tuple[Callable[[], None], int]] = {
            "kill_beat": (lambda: self._kill(pick(self._beats)), 3),
            "kill_worker": (lambda: self._kill(pick(self._workers)), 4),
            "freeze_beat": (lambda: self._freeze(pick(self._beats), longest=6.0), 2),
            "freeze_worker": (
                lambda: self._freeze(pick(self._workers), longest=6.0),
                2,
            ),
            "freeze_all": (self._freeze_all_workers, 1),
            "restart": (self._restart_server, 1),
            "revoke": (self._revoke, 5),
        }
        wanted = [faults[name] for name in self._plan.faults or faults]
        self._dice.choices([f for f, _ in wanted], [w for _, w in wanted])[0]()

    def _freeze_all_workers(self) -> None:
        """Freeze all workers, so that waiting runs outlive their lifetime."""
        self._figures.freezes += 1
        for member in self._workers:
            if member.well:
                member.freeze(5.0)

    def _revoke(self) -> None:
        """Revoke a waiting run by its id, as a person would."""
        waiting = self._database.call("ZRANGE", self._database.keys.queued, 0, 20)
        if waiting:
            run_id = self._dice.choice([str(one) for one in waiting])
            self._control.revoke(run_id)
            self._revoked.add(run_id)
            self._figures.revoked += 1

    def _next_due_ms(self) -> Iterator[float]:
        for job in self._all_jobs():
            if job.next_run_at is not None:
                yield to_ms(job.next_run_at)

    def _stopped(self) -> Iterator[str]:
        begun = self._now()
        wait_for(self._plan.quiet_seconds)
        until = self._now() - timedelta(seconds=2)
        # Read before the records: a run that ends meanwhile is on record as started.
        waiting = cared_for(self._database)
        yield from silently_stopped(
            self._all_jobs(), all_records(self._runs), begun=begun, until=until, cared_for=waiting
        )
        yield from (f"{job.name} is {job.state.value}" for job in self._all_jobs() if _is_off(job))

    def _paused(self, first: Job) -> Span | None:
        """Pause one job and return its span; occurrences until then must be on record.

        Return None for a job that has stopped.
        """
        job = self._jobs.find(first.id)
        if job.next_run_at is None or _is_off(job):
            return None
        self._cron.pause(job.id)
        return Span(
            job_id=job.id,
            schedule=job.spec.compiled(),
            start=datetime.fromtimestamp(first.spec.anchor_ms / 1000, UTC),
            end=self._now(),
            settled_until=job.next_run_at - _MOMENT,
            may_repeat=job.spec.policy.on_lost is OnLost.RETRY,
        )

    def _settle(self) -> None:
        """Wait until no run is active; a run that waits for ever is left to the checker.

        A message that vanishes twice is pushed again after three minutes.
        """

        def idle() -> bool:
            self._look_after(at_once=True)
            return not any(self._runs.counts().values())

        with suppress(BenchError):
            seconds = self._plan.settle_seconds
            wait_until(idle, what="all runs are over", seconds=seconds, poll=0.2)

    def _all_jobs(self) -> list[Job]:
        return [job for job in self._jobs.all() if isinstance(job, Job)]

    def _is_declared(self) -> bool:
        return len(self._all_jobs()) >= self._plan.jobs * 10

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._database.now_ms() / 1000, UTC)

    def _lines(self) -> Iterator[_Line]:
        for path in sorted(self._starts.iterdir()):
            for line in path.read_text().splitlines():
                run_id, attempt, what, number, at_ns = line.split()
                yield _Line(
                    run_id=run_id, attempt=int(attempt), what=what, number=int(number),
                    at=int(at_ns) / 1e9,
                )  # fmt: skip

    def _member(self, role: str, name: str, *options: str) -> Member:
        command = [sys.executable, "-m", "celery", "--workdir", str(_FOLDER), "-A", _PROJECT, role]
        if role == "beat":
            options = ("-S", "hermes_celery.beat:CronScheduler", "--pidfile", "", *options)
        else:
            options = ("--hostname", f"{name}@soak", *options)
        return Member([*command, "-l", "WARNING", *options], self._environment(), self._log)

    def _environment(self) -> dict[str, str]:
        return {
            **inherited_environment(),
            "PYTHONPATH": f"{_FOLDER}{os.pathsep}{_ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "BROKER": self._url,
            "HERMES_HOME": str(self._home),
            "HERMES_TIMEZONE": "UTC",
            # Keep all history until it is judged.
            "HERMES_CELERY_KEEP_RUNS": "100000",
            "SOAK_STARTS": str(self._starts),
            "SOAK_JOBS": str(self._plan.jobs),
            "SOAK_PLANT": self._plan.plant,
        }


def _is_off(job: Job) -> bool:
    """Return whether a job has stopped although nobody paused it."""
    return job.state is not JobState.SCHEDULED or job.next_run_at is None


def _is_first(line: _Line) -> bool:
    return line.what in _FIRST or (line.what == "again" and line.number == 0)


def _history(spans: list[Span], records: tuple[Run, ...], lines: list[_Line]) -> History:
    """Return the checker's input, with the first start of each attempt."""
    starts = (Start(run_id=x.run_id, attempt=x.attempt) for x in lines if _is_first(x))
    return History(spans=tuple(spans), records=records, starts=tuple(starts))


def _others(records: tuple[Run, ...], lines: list[_Line], revoked: set[str]) -> Iterator[str]:
    """Yield faults unknown to the checker.

    They are parts that ran twice, successes without their last part, failures, and revoked runs
    that still wait.
    """
    counted = Counter((x.run_id, x.attempt, x.what, x.number) for x in lines)
    for (run_id, attempt, what, number), count in counted.items():
        if count > 1:
            yield f"{run_id} {what} {number} started {count} times (attempt {attempt})"
    seen = {(line.run_id, line.what, line.number): line.at for line in lines}
    for run in records:
        if run.state is RunState.SUCCEEDED and run.started_at is not None:
            yield from _unfinished(run, run.started_at.timestamp(), seen)
        # A task that cannot publish its next part fails, as it would under Celery.
        if run.state is RunState.FAILED and "connecting to" not in (run.error or ""):
            yield f"{run.id} of {run.job_name} failed: {run.error}"
        if run.id in revoked and run.state is RunState.QUEUED:
            yield f"{run.id} was revoked and still waits"


def _unfinished(
    run: Run, started: float, seen: Mapping[tuple[str, str, int], float]
) -> Iterator[str]:
    """Yield the run if it succeeded before its last part began.

    A run with several parts records when its last part was claimed. That is the server's time,
    which a worker knows to some milliseconds.
    """
    kind = run.job_name.partition("-")[0]
    parts = {"handed": (("handed", 0), ("rest", 0)), "again": (("again", 0), ("again", 2))}
    if kind not in parts:
        return
    first, last = (seen.get((run.id, *part), math.inf) for part in parts[kind])
    if last == math.inf or last - started > (last - first) / 2 + _CLOCKS_SECONDS:
        yield f"{run.id} of {run.job_name} succeeded before its last part began"


def run_round(plan: Plan) -> Result:
    """Run one round, from a fresh server to the verdict."""
    with tempfile.TemporaryDirectory(prefix="hermes-soak-") as home, ExitStack() as stack:
        return Round(plan, Path(home), stack).run()


@click.command()
@click.option("--minutes", type=float, default=5.0, show_default=True)
@click.option("--jobs", type=int, default=3, show_default=True, help="Of each of ten kinds.")
@click.option("--fault-seconds", type=float, default=2.0, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
def main(minutes: float, jobs: int, fault_seconds: float, seed: int) -> None:
    """Disturb, settle, check; round after round, until a round shows a fault."""
    deadline = time.monotonic() + minutes * 60
    number = 0
    while number == 0 or time.monotonic() < deadline:
        plan = Plan(
            seconds=min(90.0, max(deadline - time.monotonic(), 10.0)),
            jobs=jobs,
            fault_seconds=fault_seconds,
            fsync=("everysec", "always")[number % 2],
            seed=seed + number,
        )
        result = run_round(plan)
        number += 1
        click.echo(
            f"{number}: {result.verdict.targets} occurrences, {result.starts} starts "
            f"({result.continued} of them continued a run), {result.figures}, "
            f"not succeeded {dict(result.verdict.told)}, {'valid' if result.valid else 'NOT VALID'}"
        )
        if not result.valid:
            raise SystemExit(result.faults())


if __name__ == "__main__":
    main()
