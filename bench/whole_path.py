"""The whole path, measured: from due jobs to finished runs, beside what it cannot be faster than.

    python -m bench.whole_path

Four parts, each on a fresh Valkey (unix socket, AOF synced every second): the way of N due jobs to
their finished runs, the cost of a beat that has nothing to do, how late a beat and a worker are,
and the same work done bare (plain pushes, one Lua loop, plain Celery), all in one go on one
machine, so that the ratios mean something where the absolute numbers do not travel.

Times of runs come from their records, which carry the server's clock in whole milliseconds.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NoReturn, Protocol

import click
import msgspec
from celery import Celery
from rich.console import Console
from rich.table import Table

from bench.server import BenchError, child, valkey, wait_until
from hermes_celery.app import broker_url, make_app
from hermes_celery.beat import owner_name
from hermes_celery.clock import ServerClock
from hermes_celery.compose import make_beat, open_database
from hermes_celery.defining import define
from hermes_celery.dispatch import RUN_TASK, Dispatch
from hermes_celery.instant import from_ms
from hermes_celery.job import Job, JobRequest, JobSpec, new_job_id
from hermes_celery.lease import RENEW_SECONDS, Lease
from hermes_celery.pulse import Pulse, RunningRun
from hermes_celery.run import Outcome, RunState, due_ms_of, run_id_of
from hermes_celery.runner import Runner
from hermes_celery.session import Session
from hermes_celery.settings import Settings, read_settings
from hermes_celery.store import Database, DueIndex, Jobs, Runs, Waker
from hermes_celery.tasks import RunTask
from hermes_celery.tick import tick

SLOTS = 4
#: Enough for every pool process to have made its runner.
_WARM_UP_JOBS = 40
_DONE_SECONDS = 600.0
#: More than any clock here can be wrong by, so that all jobs are due at the first tick.
_OVERDUE_MS = 1_000
_IDLE_STEPS = 24
_IDLE_SECONDS = 5.0
_LAG_JOBS = 200
_LAG_SPREAD_SECONDS = 20.0
_PAGE = 1000
_PIPELINE = 200
_SCRIPT = "#!/bin/sh\necho done\n"
_BARE_QUEUE = "bare"
_BARE_TASK = "bench.noop"

BARE_LUA = """
-- KEYS  1 queue   2 due index   3 all runs    ARGV  for each job: id, run id, instant, message
for i = 1, #ARGV, 4 do
  redis.call('HSET', 'bare:run:' .. ARGV[i + 1], 'job_id', ARGV[i], 'due_ms', ARGV[i + 2],
    'queued_ms', ARGV[i + 2], 'state', 'queued', 'attempt', '1')
  redis.call('HSET', 'bare:job:' .. ARGV[i], 'next_ms', ARGV[i + 2])
  redis.call('ZADD', KEYS[2], ARGV[i + 2], ARGV[i])
  redis.call('ZADD', KEYS[3], ARGV[i + 2], ARGV[i + 1])
  redis.call('LPUSH', KEYS[1], ARGV[i + 3])
end
"""


# --- the ground everything stands on ---------------------------------------------------------


class Bed(msgspec.Struct, frozen=True, kw_only=True):
    """A fresh server and home, and the environment of whoever works there."""

    home: Path
    url: str
    environment: Mapping[str, str]
    settings: Settings
    database: Database

    @property
    def log(self) -> Path:
        """Where the processes of this bed write."""
        return self.home / "bench.log"


@contextmanager
def fresh_bed() -> Iterator[Bed]:
    """A server, a home with one script in it, and settings that mean both."""
    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hermes-bench-")))
        (home / "scripts").mkdir()
        (home / "scripts" / "noop.sh").write_text(_SCRIPT)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HERMES_")}
        ours = {
            "HERMES_HOME": str(home),
            "HERMES_REDIS_URL": url,
            "HERMES_CRON_MAX_WORKERS": str(SLOTS),
            "HERMES_TIMEZONE": "UTC",
        }
        settings = read_settings(ours)
        database = open_database(settings)
        stack.callback(database.close)
        stack.enter_context(_events_logged(home / "beat.log"))
        yield Bed(
            home=home,
            url=url,
            environment={**kept, **ours},
            settings=settings,
            database=database,
        )


@contextmanager
def _events_logged(path: Path) -> Iterator[None]:
    """Our own ticks log as a beat's do: the lines are part of the cost."""
    logger, handler = logging.getLogger("hermes_celery"), logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("[%(asctime)s: %(levelname)s/%(process)d] %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
        handler.close()


def celery_process(bed: Bed, app: str, *arguments: str) -> AbstractContextManager[object]:
    """A Celery process as its user would start it."""
    command = [sys.executable, "-m", "celery", "-A", app, *arguments]
    return child(command, environment=bed.environment, log=bed.log)


def store_jobs(bed: Bed, due_ms: Sequence[int]) -> list[str]:
    """Store one hourly script job for each instant, first due then; returns their ids."""
    jobs, now = Jobs(bed.database), from_ms(bed.database.now_ms())
    request = JobRequest(schedule="every 1h", script="noop.sh", no_agent=True, name="no-op")
    ids = []
    for at_ms in due_ms:
        spec, _ = define(request, job_id=new_job_id(), now=now, default_timezone="UTC")
        ids.append(jobs.add(Job(spec=spec, next_run_at=from_ms(at_ms))).id)
    return ids


def run_times(bed: Bed, run_ids: Sequence[str]) -> list[dict[str, int]]:
    """The times in the records of finished runs, server's clock, Unix ms.

    Raises BenchError unless every run has succeeded and its output is kept.
    """
    keys, found = bed.database.keys, []
    for start in range(0, len(run_ids), _PAGE):
        page = run_ids[start : start + _PAGE]
        rows = bed.database.hashes([keys.run(run_id) for run_id in page])
        kept = bed.database.call("EXISTS", *(keys.output(run_id) for run_id in page))
        bad = [row.get("error", row) for row in rows if row.get("state") != RunState.SUCCEEDED]
        if bad or kept != len(page):
            raise BenchError(f"{len(bad)} runs went wrong, {kept} outputs kept; first: {bad[:1]}")
        found += [
            {
                "due_ms": due_ms_of(run_id),
                **{k: int(v) for k, v in row.items() if k.endswith("_ms")},
            }
            for run_id, row in zip(page, rows, strict=True)
        ]
    return found


def wait_until_done(bed: Bed) -> None:
    """Wait until no run is queued or running."""
    runs = Runs(bed.database)
    wait_until(
        lambda: not any(runs.counts().values()),
        what="all runs are over",
        seconds=_DONE_SECONDS,
        poll=0.02,
    )


# --- part 1: N due jobs, from the tick to the last finished run -------------------------------


class PathTimes(msgspec.Struct, frozen=True, kw_only=True):
    """One round, all in milliseconds since its first tick began."""

    dispatched_ms: float
    first_start_ms: float
    all_done_ms: float


class Contender(Protocol):
    """A started system that can be handed N due jobs; peers are measured through the same two."""

    name: str

    def measure(self, count: int) -> PathTimes:
        """Have `count` no-op jobs due at once and follow them to their end."""


class Leader:
    """A tick in a loop under a real lease: what `Beat.step` does, without the sleep."""

    def __init__(self, bed: Bed) -> None:
        self._clock = ServerClock(bed.database.now_ms)
        self._lease = Lease(bed.database, owner=owner_name(), clock=self._clock)
        self._due_index = DueIndex(bed.database)
        self._messages = Dispatch(make_app(bed.settings))

    def dispatch_all(self) -> int:
        """Tick until nothing is due; returns how many runs were dispatched."""
        dispatched = 0
        while True:
            if self._lease.hold() is None:
                raise BenchError("somebody else holds the lease")
            report = tick(
                self._due_index,
                self._messages,
                token=self._lease.require(),
                now_ms=self._clock.now_ms(),
            )
            dispatched += report.dispatched
            if report.next_due_ms is None or report.next_due_ms > report.now_ms:
                return dispatched
            if not report.dispatched:
                raise BenchError(f"the tick dispatched nothing of what is due: {report}")


class HermesCelery:
    """This package: one leader in this process, one worker with four slots."""

    def __init__(self, name: str, bed: Bed) -> None:
        self.name = name
        self._bed = bed
        self._leader = Leader(bed)

    def measure(self, count: int) -> PathTimes:
        """Have `count` no-op jobs due at once and follow them to their end."""
        due_ms = self._bed.database.now_ms() - _OVERDUE_MS
        ids = store_jobs(self._bed, [due_ms] * count)
        # The garbage of storing the jobs is not the tick's.
        gc.collect()
        began_ms = _server_ms(self._bed)
        dispatched_ms = self._dispatch(count)
        wait_until_done(self._bed)
        rows = run_times(self._bed, [run_id_of(job_id, due_ms) for job_id in ids])
        return PathTimes(
            dispatched_ms=dispatched_ms,
            first_start_ms=min(row["started_ms"] for row in rows) - began_ms,
            all_done_ms=max(row["finished_ms"] for row in rows) - began_ms,
        )

    def dispatch_only(self, count: int) -> float:
        """Milliseconds to dispatch `count` due jobs; nothing waits for their runs."""
        store_jobs(self._bed, [self._bed.database.now_ms() - _OVERDUE_MS] * count)
        return self._dispatch(count)

    def _dispatch(self, count: int) -> float:
        began = time.perf_counter()
        dispatched = self._leader.dispatch_all()
        took_ms = (time.perf_counter() - began) * 1000
        if dispatched != count:
            raise BenchError(f"{dispatched} of {count} jobs were dispatched")
        return took_ms


def _server_ms(bed: Bed) -> float:
    seconds, microseconds = bed.database.call("TIME")
    return int(seconds) * 1000 + int(microseconds) / 1000


@contextmanager
def hermes_celery(*, stubbed: bool) -> Iterator[HermesCelery]:
    """Ours, warm; `stubbed`: the whole run path, but no process for the script."""
    app = "bench.whole_path:stub_app" if stubbed else "hermes_celery"
    name = "run path, work stubbed" if stubbed else "script jobs (bash, echo)"
    with fresh_bed() as bed, celery_process(bed, app, "worker"):
        contender = HermesCelery(name, bed)
        contender.measure(_WARM_UP_JOBS)
        yield contender


CONTENDERS: Sequence[Callable[[], AbstractContextManager[Contender]]] = (
    lambda: hermes_celery(stubbed=True),
    lambda: hermes_celery(stubbed=False),
)


def part_path(console: Console, *, counts: Sequence[int], rounds: int) -> None:
    """Print the way of N due jobs."""
    table = _table("Due jobs to finished runs: ms since the tick began, median (min..max)")
    for name in ("system", "jobs", "all dispatched", "first start", "all done"):
        table.add_column(name, justify="left" if name == "system" else "right")
    for start in CONTENDERS:
        with start() as contender:
            for count in counts:
                times = [contender.measure(count) for _ in range(rounds)]
                table.add_row(
                    contender.name,
                    f"{count:,}",
                    _spread([t.dispatched_ms for t in times]),
                    _spread([t.first_start_ms for t in times]),
                    _spread([t.all_done_ms for t in times]),
                )
    console.print(table)


# --- part 2: a beat that has nothing to do ----------------------------------------------------


class _NoSleep(Waker):
    """The beat's sleep, left out."""

    def wait(self, seconds: float) -> bool:
        """Return at once."""
        return False


def part_idle(console: Console, *, stored: Sequence[int]) -> None:
    """Print what an idle beat costs."""
    table = _table("An idle beat, one step each 250 ms")
    for name in ("stored jobs", "one step, ms", "Redis commands/s", "Redis µs/s"):
        table.add_column(name, justify="right")
    with fresh_bed() as bed:
        present = 0
        for count in sorted(stored):
            far_ms = bed.database.now_ms() + 86_400_000
            store_jobs(bed, range(far_ms, far_ms + count - present))
            present = count
            steps = _idle_steps(bed)
            commands, busy_us = _idle_commands(bed)
            table.add_row(
                f"{count:,}", _spread(steps, digits=2), f"{commands:.1f}", f"{busy_us:.0f}"
            )
    console.print(table)


def _idle_steps(bed: Bed) -> list[float]:
    """Milliseconds of single idle steps, as far apart as a beat makes them."""
    beat = make_beat(make_app(bed.settings), owner=owner_name())
    # The composition root builds beats; only the sleep is exchanged.
    beat._waker = _NoSleep(bed.database)
    steps = []
    for _ in range(_IDLE_STEPS):
        began = time.perf_counter()
        beat.step()
        steps.append((time.perf_counter() - began) * 1000)
        time.sleep(RENEW_SECONDS)
    beat.stop()
    return steps[1:]


def _idle_commands(bed: Bed) -> tuple[float, float]:
    """Commands and microseconds per second that a real beat asks of Redis.

    Both count what scripts call as well, so the microseconds are an upper bound.
    """
    with celery_process(bed, "hermes_celery", "beat"):
        wait_until(
            lambda: bool(bed.database.call("EXISTS", bed.database.keys.lease)), what="a beat leads"
        )
        # Rescue begins five seconds after a beat took over.
        time.sleep(6.0)
        before = _command_stats(bed)
        time.sleep(_IDLE_SECONDS)
        after = _command_stats(bed)
    calls = sum(after[name][0] - before.get(name, (0, 0))[0] for name in after)
    micros = sum(after[name][1] - before.get(name, (0, 0))[1] for name in after)
    return calls / _IDLE_SECONDS, micros / _IDLE_SECONDS


def _command_stats(bed: Bed) -> dict[str, tuple[float, float]]:
    stats: Mapping[str, Any] = bed.database.call("INFO", "commandstats")
    return {
        name: (float(row["calls"]), float(row["usec"]))
        for name, row in stats.items()
        if name != "cmdstat_info"
    }


# --- part 3: how late ---------------------------------------------------------------------------


def part_lag(console: Console) -> None:
    """Print how late a real beat and a real worker are."""
    with (
        fresh_bed() as bed,
        celery_process(bed, "hermes_celery", "worker"),
        celery_process(bed, "hermes_celery", "beat"),
    ):
        _warm_up(bed)
        due = _spread_instants(bed.database.now_ms() + 1_000)
        ids = store_jobs(bed, due)
        time.sleep(max(due[-1] - bed.database.now_ms(), 0) / 1000 + 1.0)
        wait_until_done(bed)
        rows = run_times(bed, [run_id_of(i, at) for i, at in zip(ids, due, strict=True)])
    table = _table(f"Lateness of {_LAG_JOBS} jobs over {_LAG_SPREAD_SECONDS:g} s, ms")
    for name in ("from due to", "p50", "p99", "max"):
        table.add_column(name, justify="right")
    for name, field in (("queued", "queued_ms"), ("started", "started_ms")):
        lags = [float(row[field] - row["due_ms"]) for row in rows]
        p99 = quantiles(lags, n=100, method="inclusive")[98]
        table.add_row(name, f"{median(lags):.1f}", f"{p99:.1f}", f"{max(lags):.0f}")
    console.print(table)


def _warm_up(bed: Bed) -> None:
    """Wait until beat and worker do what they are for."""
    store_jobs(bed, [bed.database.now_ms()] * _WARM_UP_JOBS)
    wait_until(
        lambda: int(bed.database.call("ZCARD", bed.database.keys.runs)) == _WARM_UP_JOBS,
        what="the beat dispatches",
    )
    wait_until_done(bed)


def _spread_instants(begin_ms: int) -> list[int]:
    # The same instants in every measurement, none of them on a round figure.
    chance = random.Random(20_261_122)
    span = int(_LAG_SPREAD_SECONDS * 1000)
    return sorted(begin_ms + chance.randrange(span) for _ in range(_LAG_JOBS))


# --- part 4: what it cannot be faster than ------------------------------------------------------


def part_limit(console: Console, *, count: int, rounds: int) -> None:
    """Print the same work done bare, and how many times as long ours takes."""
    with fresh_bed() as bed:
        app = make_bare_app(bed.url)
        apply_async = [_apply_async(bed, app, count) for _ in range(rounds)]
        messages = _take_messages(bed)[:count]
        pushes = [_push(bed, messages) for _ in range(rounds)]
        loops = [_lua_loop(bed, messages) for _ in range(rounds)]
        ours = HermesCelery("", bed)
        ours.dispatch_only(_WARM_UP_JOBS)
        ticks = [ours.dispatch_only(count) for _ in range(rounds)]
    _print_ratios(
        console,
        f"Dispatching {count:,} jobs with nobody consuming, ms",
        {
            "bare: LPUSH of the messages, pipelined": pushes,
            "bare: Lua loop, HSET x2 ZADD x2 LPUSH": loops,
            "bare: apply_async, one by one": apply_async,
        },
        ours=ticks,
        count=count,
    )
    with hermes_celery(stubbed=True) as contender:
        done = [contender.measure(count).all_done_ms for _ in range(rounds)]
    _print_ratios(
        console,
        f"Consuming {count:,} no-op messages with {SLOTS} slots, ms",
        {
            "bare: Celery worker, its defaults": _consume(messages, "bare_app", rounds),
            "bare: Celery worker, our settings": _consume(messages, "bare_app_as_ours", rounds),
        },
        ours=done,
        count=count,
    )


def _print_ratios(
    console: Console,
    title: str,
    bare: Mapping[str, list[float]],
    *,
    ours: list[float],
    count: int,
) -> None:
    table = _table(title)
    for name in ("what", "median (min..max)", "µs each", "ours / this"):
        table.add_column(name, justify="left" if name == "what" else "right")
    each = 1000 / count
    for name, times in {**bare, "ours": ours}.items():
        ratio = median(ours) / median(times)
        table.add_row(name, _spread(times), f"{median(times) * each:.0f}", f"{ratio:.2f}")
    console.print(table)


def _apply_async(bed: Bed, app: Celery, count: int) -> float:
    task = app.tasks[_BARE_TASK]
    bed.database.call("DEL", _BARE_QUEUE)
    task.apply_async(args=("warm up",))
    bed.database.call("DEL", _BARE_QUEUE)
    began = time.perf_counter()
    for number in range(count):
        task.apply_async(args=(f"run {number}",))
    return (time.perf_counter() - began) * 1000


def _take_messages(bed: Bed) -> list[str]:
    messages: list[str] = bed.database.call("LRANGE", _BARE_QUEUE, 0, -1)
    bed.database.call("DEL", _BARE_QUEUE)
    return messages


def _push(bed: Bed, messages: Sequence[str]) -> float:
    began = time.perf_counter()
    for start in range(0, len(messages), _PIPELINE):
        with bed.database.client.pipeline(transaction=False) as pipe:
            for message in messages[start : start + _PIPELINE]:
                pipe.lpush(_BARE_QUEUE, message)
            pipe.execute()
    return (time.perf_counter() - began) * 1000


def _lua_loop(bed: Bed, messages: Sequence[str]) -> float:
    script = bed.database.client.register_script(BARE_LUA)
    keys = [_BARE_QUEUE, "bare:due", "bare:runs"]
    now_ms = bed.database.now_ms()
    script(keys=keys, args=[])
    began = time.perf_counter()
    for start in range(0, len(messages), _PIPELINE):
        args: list[str | int] = []
        for message in messages[start : start + _PIPELINE]:
            job_id = new_job_id()
            args += (job_id, f"{job_id}-{now_ms}", now_ms, message)
        script(keys=keys, args=args)
    return (time.perf_counter() - began) * 1000


def _consume(messages: Sequence[str], app: str, rounds: int) -> list[float]:
    """Milliseconds from the first push until a bare worker has taken the last message."""
    with fresh_bed() as bed, celery_process(bed, f"bench.whole_path:{app}", "worker"):
        _push(bed, messages[:_WARM_UP_JOBS])
        _wait_until_consumed(bed)
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            _push(bed, messages)
            _wait_until_consumed(bed)
            times.append((time.perf_counter() - began) * 1000)
        return times


def _wait_until_consumed(bed: Bed) -> None:
    def consumed() -> bool:
        waiting = bed.database.call("LLEN", _BARE_QUEUE)
        return not waiting and not bed.database.call("HLEN", "unacked")

    wait_until(consumed, what="the bare worker has taken all messages", seconds=_DONE_SECONDS)


# --- the apps that the workers of this benchmark serve ------------------------------------------


class StubTask(RunTask):
    """The task of every run with work that does nothing; claim, session, finish are real."""

    abstract = True

    def runner_here(self) -> Runner:
        cls = type(self)
        if cls._runner is None or cls._runner[0] != os.getpid():
            cls._runner = (os.getpid(), _stub_runner(self.app.conf.hermes_settings))
        return cls._runner[1]


class _NoWork:
    """What a script would have printed, without the script."""

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        """Succeed at once."""
        return Outcome(state=RunState.SUCCEEDED, output=b"done\n", exit_code=0)


def _stub_runner(settings: Settings) -> Runner:
    database = open_database(settings)
    clock, runs = ServerClock(database.now_ms), Runs(database)
    pulse, work = Pulse(runs, clock=clock), _NoWork()
    return Runner(runs, pulse=pulse, work_for=lambda spec: work, clock=clock)


def make_stub_app(settings: Settings) -> Celery:
    """Our app, its run task replaced by the stub."""
    app = make_app(settings)
    app.finalize()
    app.tasks.pop(RUN_TASK)
    app.task(StubTask.perform, name=RUN_TASK, base=StubTask, bind=True, ignore_result=True)
    return app


def make_bare_app(url: str, *, as_ours: bool = False) -> Celery:
    """Plain Celery with a task that does nothing; `as_ours`: with our worker's settings."""
    app = Celery("bare", broker=broker_url(url), set_as_current=False)
    app.conf.update(
        task_ignore_result=True, worker_concurrency=SLOTS, task_default_queue=_BARE_QUEUE
    )
    if as_ours:
        app.conf.update(
            worker_prefetch_multiplier=1,
            worker_disable_prefetch=True,
            worker_send_task_events=True,
        )
    app.task(_nothing, name=_BARE_TASK)
    app.finalize()
    return app


def _nothing(run_id: str) -> str:
    return "succeeded"


def __getattr__(name: str) -> Celery:
    """The apps, made when a worker asks for them: `celery -A bench.whole_path:stub_app`."""
    if name == "stub_app":
        return make_stub_app(read_settings())
    if name in ("bare_app", "bare_app_as_ours"):
        url = read_settings().redis_url
        return make_bare_app(str(url), as_ours=name.endswith("ours"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# --- the command --------------------------------------------------------------------------------


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold")


def _spread(values: Sequence[float], *, digits: int = 0) -> str:
    middle, low, high = median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}..{high:,.{digits}f})"


def _interrupted(*_: object) -> NoReturn:
    """End in order, once: a second signal must not cut the cleaning up short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


PARTS = ("path", "idle", "lag", "limit")


@click.command()
@click.option("--jobs", multiple=True, type=int, default=(10, 100, 1000), show_default=True)
@click.option("--stored", multiple=True, type=int, default=(100, 10_000), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(PARTS), default=PARTS, show_default=True)
def main(
    jobs: tuple[int, ...], stored: tuple[int, ...], rounds: int, only: tuple[str, ...]
) -> None:
    """Measure the whole path, part by part, and print one table for each."""
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
    console = Console(width=110)
    parts: Mapping[str, Callable[[], None]] = {
        "path": lambda: part_path(console, counts=jobs, rounds=rounds),
        "idle": lambda: part_idle(console, stored=stored),
        "lag": lambda: part_lag(console),
        "limit": lambda: part_limit(console, count=max(jobs), rounds=rounds),
    }
    for name in only:
        try:
            parts[name]()
        except BenchError as error:
            raise click.ClickException(f"part {name!r}: {error}") from None


if __name__ == "__main__":
    main()
