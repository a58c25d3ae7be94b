"""Runs beats, workers, edits and faults for some minutes, then checks the history.

One round is a fresh server, real child processes, and a loop of random acts: kill -9, freeze,
restart the server, cut or swallow connections, edit, pause, trigger. Then the faults stop, all jobs
are paused, waiting runs are performed, and the checker judges the whole history.

With `appendfsync everysec` Redis may lose the last second when it is killed, as its documentation
says. So the server is restarted by SIGTERM there; with `always` it is killed with SIGKILL.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import msgspec

from bench.server import wait_until
from hermes_celery.client import Client, JobChecks, NamespaceRecords, RunMessages
from hermes_celery.clock import ServerClock
from hermes_celery.core.run import Run, job_id_of
from hermes_celery.settings import Settings, read_settings
from hermes_celery.store import Database, DueIndex, Jobs, Shards
from hermes_celery.wiring.server import open_database
from tests.proof.concurrent_editors import ConcurrentEditors, Figures
from tests.proof.delivery_receipts import RUN_ID, Receipt
from tests.proof.faulty_proxy import Proxy
from tests.proof.history import History, all_records, starts_in
from tests.proof.history_checker import Verdict, check
from tests.proof.limits_check import budget_faults, crowds_in
from tests.proof.soak_disturbances import Disturbed, Member, Server, inherited_environment, wait_for
from tests.proof.soak_faults import Vandal
from tests.proof.soak_processes import make_runs, make_soak_app
from tests.proof.soak_verdict import cared_for, delivery_counts, silently_stopped
from tests.receivers import http_receiver
from tests.support import messages_of

#: A run that starts later than this was forgotten. Less lateness is reported and is no fault: it
#: comes from messages that vanish repeatedly, from a server that is away, and from a backlog.
LATE_AFTER = timedelta(minutes=5)
_SETTLE_SECONDS = 120.0
_CALM_SECONDS = 3.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one round."""

    seconds: float
    jobs: int = 100
    beats: int = 3
    consumers: int = 3
    #: Celery workers, with two threads each.
    workers: int = 1
    #: Mean time between two faults; below, time between two changes by people.
    fault_seconds: float = 1.5
    deed_seconds: float = 0.2
    #: Undisturbed time at the end, in which every due job has to run.
    quiet_seconds: float = 5.0
    #: Names of the faults of `Round`, without the underscore; empty means all.
    faults: tuple[str, ...] = ()
    #: Number of shards of the due index.
    shards: int = 1
    #: appendfsync: `everysec` or `always`.
    fsync: str = "everysec"
    #: Whether beats compare all records and repair them, as real ones do.
    mends: bool = True
    seed: int = 0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one round."""

    verdict: Verdict
    figures: Figures
    edits: int
    #: Latest dispatch after each sudden end of a leader.
    takeovers: tuple[timedelta, ...]
    #: Jobs that should have run in the quiet time and did not, without a reason on record.
    stopped: tuple[str, ...] = ()
    #: Faults in deliveries, groups and budgets.
    others: tuple[str, ...] = ()
    delivered: int = 0
    delivered_twice: int = 0

    @property
    def valid(self) -> bool:
        """True if there is no fault."""
        return self.verdict.valid and not self.stopped and not self.others

    def faults(self) -> str:
        """Return the first few faults of each kind as readable text."""
        kinds = {"silently stopped": self.stopped, "others": self.others}
        found = [
            f"{kind} {len(all_)}: " + "; ".join(all_[:5]) for kind, all_ in kinds.items() if all_
        ]
        return "\n".join([self.verdict.faults(), *found]).strip()


class Round(Disturbed):
    """One round of the soak."""

    def __init__(self, plan: Plan, home: Path, stack: ExitStack) -> None:
        self._plan = plan
        self._figures: Figures = Figures()
        self._starts = home / "starts"
        self._starts.mkdir()
        server = Server(home, fsync=plan.fsync)
        stack.callback(server.stop)
        self._proxy = stack.enter_context(Proxy(server.port))
        self._settings = _settings(server.port, home)
        super().__init__(server, open_database(self._settings), random.Random(plan.seed))
        stack.callback(self._database.close)
        wait_until(self._answers, what="the server answers")
        Shards(self._database).set_count(plan.shards)
        self._beats = [self._member(i, "beat", home) for i in range(plan.beats)]
        self._workers = [self._member(i, "consumer", home) for i in range(plan.consumers)]
        self._workers += [self._celery(i, home) for i in range(plan.workers)]
        stack.callback(self._end_all)
        self._receiver = stack.enter_context(http_receiver())
        self._cron = _cron(self._database, self._settings)
        self._people = ConcurrentEditors(
            self._cron, dice=self._dice, deliver_url=self._receiver.url
        )
        self._vandal = Vandal(self._database, dice=self._dice)
        self._begun = self._cron.now
        self._proxy_opens_at: float | None = None

    def run(self) -> Result:
        """Cause faults, stop them, wait until all work is done, and return the verdict."""
        self._people.add_jobs(self._plan.jobs)
        self._disturb(
            self._plan.seconds,
            first_seconds=_CALM_SECONDS,
            fault_seconds=self._plan.fault_seconds,
            deed_seconds=self._plan.deed_seconds,
            deed=self._people.do_something,
        )
        self._calm(calm_seconds=_CALM_SECONDS, late_ms=1000, settle_seconds=_SETTLE_SECONDS)
        stopped = tuple(self._stopped())
        self._people.stop_everything()
        self._settle()
        self._end_all()
        records = all_records(make_runs(self._database))
        history = self._history(records)
        receipts = [
            Receipt(target="", run_id=found[0])
            for text in self._receiver.messages
            if (found := RUN_ID.search(text))
        ]
        missing, twice = delivery_counts(records, receipts, frozenset(self._people.delivering))
        return Result(
            verdict=check(history, late_after=LATE_AFTER),
            figures=self._figures,
            edits=self._people.edits,
            takeovers=tuple(_takeovers(history, self._figures)),
            stopped=stopped,
            others=tuple(self._others(records, missing, twice)),
            delivered=len(receipts),
            delivered_twice=twice,
        )

    def _history(self, records: Sequence[Run]) -> History:
        """Return the history without the jobs that were damaged on purpose."""
        known = {span.job_id for span in self._people.spans}
        return History(
            spans=tuple(self._people.spans),
            records=tuple(run for run in records if run.job_id in known),
            starts=tuple(s for s in starts_in(self._starts) if job_id_of(s.run_id) in known),
            asked=frozenset(self._people.asked),
        )

    def _stopped(self) -> Iterator[str]:
        """Disturb nothing for a while, and yield the jobs that did not run."""
        begun = self._cron.now
        wait_for(self._plan.quiet_seconds)
        # An occurrence due this very moment may still be on its way.
        until = self._cron.now - timedelta(seconds=2)
        # Read before the records: a run that ends meanwhile is on record as started.
        waiting = cared_for(self._database)
        yield from silently_stopped(
            [self._cron.show(job_id) for job_id in self._people.enabled],
            all_records(make_runs(self._database)),
            begun=begun,
            until=until,
            cared_for=waiting,
        )

    def _others(self, records: Sequence[Run], missing: list[str], twice: int) -> Iterator[str]:
        figures = self._figures
        yield from (f"{run_id} was delivered to nobody" for run_id in missing)
        # Each kill, freeze or absence of the server may cause one duplicate.
        excuses = figures.kills + figures.freezes + len(figures.disturbed_ms)
        if twice > excuses:
            yield f"{twice} messages came twice, after {excuses} disturbances"
        yield from crowds_in(self._starts)
        if self._begun.date() == self._cron.now.date():
            budgets = self._people.budgets
            stored = {i: self._database.client.hgetall(self._database.keys.job(i)) for i in budgets}
            yield from budget_faults(
                records, budgets, {i: {**f, "state": "scheduled"} for i, f in stored.items()}
            )

    def _fault(self) -> None:
        faults: list[tuple[Callable[[], None], int]] = [
            (self._kill_leader, 3),
            (self._kill_beat, 2),
            (self._kill_worker, 4),
            (self._freeze_leader, 2),
            (self._freeze_worker, 2),
            (self._restart_server, 1),
            (self._cut, 2),
            (self._swallow, 1),
            (self._pause_server, 1),
            (self._malform, 2),
            (self._spoil, 1),
        ]
        wanted = self._plan.faults
        faults += [(self._haunt, 1)] if "haunt" in wanted else []
        faults = [(f, w) for f, w in faults if not wanted or f.__name__[1:] in wanted]
        fault = self._dice.choices([f for f, _ in faults], [w for _, w in faults])[0]
        fault()

    def _kill_leader(self) -> None:
        leader = self._leader()
        if leader is not None:
            self._figures.leaderless_ms.append(self._database.now_ms())
            self._kill(leader)

    def _kill_beat(self) -> None:
        self._kill_unless_leading(self._dice.choice(self._beats))

    def _kill_worker(self) -> None:
        self._kill_unless_leading(self._dice.choice(self._workers))

    def _kill_unless_leading(self, member: Member) -> None:
        if member.well and member is not self._leader():
            self._kill(member)

    def _freeze_leader(self) -> None:
        leader = self._leader()
        if leader is not None:
            self._figures.leaderless_ms.append(self._database.now_ms())
            self._freeze(leader, shortest=1.0, longest=5.0)

    def _freeze_worker(self) -> None:
        self._freeze(self._dice.choice(self._workers), longest=8.0)

    def _restart_server(self) -> None:
        self._figures.disturbed_ms.append(self._database.now_ms())
        super()._restart_server()

    def _cut(self) -> None:
        self._figures.cuts += 1
        self._figures.disturbed_ms.append(self._database.now_ms())
        self._proxy.cut()

    def _swallow(self) -> None:
        if self._proxy_opens_at is None:
            self._figures.swallowings += 1
            self._figures.disturbed_ms.append(self._database.now_ms())
            self._proxy.swallow()
            self._proxy_opens_at = time.monotonic() + self._dice.uniform(1, 8)

    def _pause_server(self) -> None:
        """Have the server accept connections and answer nobody for a while."""
        self._figures.pauses += 1
        self._figures.disturbed_ms.append(self._database.now_ms())
        self._database.call("CLIENT", "PAUSE", self._dice.randrange(200, 2_500), "ALL")

    def _malform(self) -> None:
        self._figures.letters += 1
        self._vandal.malform()

    def _spoil(self) -> None:
        spoilt = self._vandal.spoil()
        if spoilt is not None:
            self._figures.spoilt += 1
            self._people.forget(spoilt.job_id)

    def _haunt(self) -> None:
        """Add a run that does not exist to a job's active runs; the leader must remove it."""
        self._vandal.haunt(self._dice.choice(self._people.enabled))

    def _look_after(self, *, at_once: bool = False) -> None:
        super()._look_after(at_once=at_once)
        if self._proxy_opens_at is not None and (
            at_once or time.monotonic() >= self._proxy_opens_at
        ):
            self._figures.disturbed_ms.append(self._database.now_ms())
            self._proxy.pass_on()
            self._proxy_opens_at = None

    def _next_due_ms(self) -> Iterator[float]:
        for shard in range(self._plan.shards):
            due_ms = DueIndex(self._database, shard=shard).next_due_ms()
            if due_ms is not None:
                yield due_ms

    def _settle(self) -> None:
        """Wait until the judged jobs have no active run and no delivery.

        A damaged job runs on, and its leftovers may be put off for an hour.
        """
        keys, known = self._database.keys, {span.job_id for span in self._people.spans}

        def idle() -> bool:
            self._look_after(at_once=True)
            left = [
                str(one)
                for index in (keys.queued, keys.heartbeats, keys.deliveries)
                for one in self._database.call("ZRANGE", index, 0, -1)
            ]
            return not any(job_id_of(one) in known for one in left)

        wait_until(idle, what="all runs are over", seconds=_SETTLE_SECONDS, poll=0.1)

    def _leader(self) -> Member | None:
        """Return the beat that holds the lease of a random shard, if it is well."""
        lease = self._database.keys.lease_of(self._dice.randrange(self._plan.shards))
        owner = str(self._database.call("GET", lease) or "")
        return next((b for b in self._beats if b.well and f":{b.process.pid}:" in owner), None)

    def _member(self, number: int, role: str, home: Path) -> Member:
        command = [sys.executable, "-m", "tests.proof.soak_processes", role]
        return Member(command, self._environment(number), home / "children.log")

    def _celery(self, number: int, home: Path) -> Member:
        options = ("--pool", "threads", "--concurrency", "2", "--loglevel", "WARNING")
        node = ("--hostname", f"w{number}@soak")
        command = [sys.executable, "-m", "celery", "-A", "tests.proof.soak_processes:app", "worker"]
        return Member([*command, *options, *node], self._environment(number), home / "children.log")

    def _environment(self, number: int) -> dict[str, str]:
        """Return a child's environment; odd numbers use the proxy, each has another wrong clock."""
        port = self._proxy.port if number % 2 else self._server.port
        return {
            **inherited_environment(),
            **_variables(port, self._settings.home),
            "SOAK_STARTS": str(self._starts),
            "SOAK_CLOCK_OFFSET": str((number - 1) * 420),
            "SOAK_MENDS": "on" if self._plan.mends else "off",
        }


def _takeovers(history: History, figures: Figures) -> Iterator[timedelta]:
    """Yield the latest dispatch after each end of a leader that no other fault disturbed."""
    dispatched = [
        (run.queued_at.timestamp() * 1000, run.queued_at - run.due_at)
        for run in history.scheduled
        if run.attempt <= 1
    ]
    for at_ms in figures.leaderless_ms:
        others = [t for t in figures.leaderless_ms if t != at_ms]
        if any(at_ms - 2_000 < t < at_ms + 3_000 for t in others) or any(
            at_ms - 6_000 < t < at_ms + 3_000 for t in figures.disturbed_ms
        ):
            continue
        after = [late for ms, late in dispatched if at_ms <= ms <= at_ms + 3_000]
        if after:
            yield max(after)


def _variables(port: int, home: Path) -> dict[str, str]:
    return {
        "HERMES_HOME": str(home),
        "HERMES_REDIS_URL": f"redis://127.0.0.1:{port}/0",
        "HERMES_TIMEZONE": "UTC",
        "HERMES_CELERY_EVENTS": "off",
        "HERMES_CELERY_WRAP": "off",
        "HERMES_CELERY_DELIVERY_TIMEOUT": "2",
        "HERMES_CELERY_DELIVERY_WAIT": "1",
    }


def _settings(port: int, home: Path) -> Settings:
    return read_settings(_variables(port, home))


def _cron(database: Database, settings: Settings) -> Client:
    app = make_soak_app(settings)
    return Client(
        NamespaceRecords(jobs=Jobs(database), runs=make_runs(database), due=DueIndex(database)),
        clock=ServerClock(database.now_ms),
        checks=JobChecks(default_timezone="UTC", files=lambda _: None),
        messages=RunMessages(builder=lambda: messages_of(app)),
    )


@contextmanager
def fresh_round(plan: Plan) -> Iterator[Round]:
    """Yield a round, and leave no process and no file behind."""
    with tempfile.TemporaryDirectory(prefix="hermes-soak-") as home, ExitStack() as stack:
        yield Round(plan, Path(home), stack)


def run_round(plan: Plan) -> Result:
    """Run one round, from a fresh server to the verdict."""
    with fresh_round(plan) as one:
        return one.run()
