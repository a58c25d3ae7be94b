"""Redis Sentinel for store and broker: the master dies or stands still, and the schedule goes on.

Replication is asynchronous, so a failover may forget the last moments of the master. What was
begun there is derived anew then, with the same run id: only such an occurrence may start twice.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from hermes_celery.client import Client
from hermes_celery.core.job import JobRequest
from hermes_celery.core.policy import CatchUp, Overlap, Policy
from hermes_celery.core.run import RunState
from hermes_celery.settings import read_settings
from hermes_celery.store import Database, connect
from hermes_celery.store.keys import Keys
from hermes_celery.wiring.client import open_cron
from tests.acl import sentinel_rules
from tests.projects.bed import Bed
from tests.redis_servers import RedisServer, needs
from tests.sentinels import Sentinels
from tests.support import eventually
from tests.system.conftest import Processes, await_leader, await_worker, script

pytestmark = pytest.mark.system

#: So long before the master was lost its last writes may not have reached the replica; the
#: Sentinels need a second more until they agree that it is down.
FORGOTTEN_SECONDS = 2.5
JOBS = ("one", "two", "three")


class Scene:
    """Two beats and a worker behind Sentinels, with jobs every second."""

    def __init__(self, sentinels: Sentinels, processes: Processes, home: Path) -> None:
        self.sentinels = sentinels
        self.processes = processes
        processes.environment |= {
            "HERMES_REDIS_URL": sentinels.url, "HERMES_CELERY_NAMESPACE": "hermes",
            "HERMES_CELERY_KEEP_RUNS": "10000",
        }  # fmt: skip
        self.started_path = home / "started"
        self.database: Database = sentinels.database(keys=Keys(namespace="hermes"))
        self.cron: Client = open_cron(read_settings(processes.environment))
        line = '"$HERMES_CRON_RUN_ID" "$(date +%s.%N)"'
        script(home, "note.sh", f'echo {line} >> "{self.started_path}"')
        policy = Policy(catch_up=CatchUp.ALL, overlap=Overlap.ALLOW)
        for name in JOBS:
            self.cron.add(
                JobRequest(
                    schedule="every 1s", script="note.sh", no_agent=True, name=name, policy=policy
                )
            )

    def up(self) -> None:
        self.beats = [self.processes.celery("beat") for _ in range(2)]
        self.worker = self.processes.celery("worker")
        await_worker(self.database)
        await_leader(self.database)
        self.await_started(6)

    @property
    def started(self) -> list[tuple[str, float]]:
        """The run ids that a script began with, and when, Unix seconds; in order."""
        if not self.started_path.exists():
            return []
        lines = self.started_path.read_text(encoding="utf-8").splitlines()
        return [(line.split()[0], float(line.split()[1])) for line in lines]

    def await_started(self, count: int) -> None:
        """Wait until so many more scripts have begun."""
        wanted = len(self.started) + count
        try:
            eventually(lambda: len(self.started) >= wanted, what=f"{count} more scripts")
        except AssertionError:
            for process in (*self.beats, self.worker):
                print(self.processes.log(process)[-4000:])
            raise

    def settle(self, *, until_all_ended: bool = False) -> None:
        """Stop the schedules and wait until what was begun has ended.

        A run whose message the failover forgot is queued, and sent again after a minute; with
        `until_all_ended` that is waited for.
        """
        for name in JOBS:
            self.cron.pause(self.cron.jobs.find(name).id)

        def is_settled() -> bool:
            states = Counter(run.state for run in self.cron.runs.latest(limit=10_000))
            waiting = states[RunState.QUEUED] if until_all_ended else 0
            return not states[RunState.RUNNING] and not waiting

        eventually(is_settled, seconds=100, what="the end of all runs")

    def check(self, lost_at: list[float]) -> None:
        """Every occurrence is on record and was started once, but for what was forgotten."""
        runs = {run.id: run for run in self.cron.runs.latest(limit=10_000)}
        first: dict[str, float] = {}
        for run_id, at in self.started:
            assert run_id in runs, "a script ran whose run is not on record"
            began = first.setdefault(run_id, at)
            is_forgotten = any(
                lost - FORGOTTEN_SECONDS <= began <= lost + FORGOTTEN_SECONDS for lost in lost_at
            )
            assert began == at or is_forgotten, f"{run_id} started at {began} and at {at}"
        for name in JOBS:
            job_id = self.cron.jobs.find(name).id
            instants = sorted(due_at(run.due_at) for run in runs.values() if run.job_id == job_id)
            gaps = [b - a for a, b in pairwise(instants) if b - a > 1.001]
            assert not gaps, f"{name} has occurrences without a record: {gaps}"
        states = Counter(run.state for run in runs.values())
        on_their_way = {RunState.QUEUED, RunState.RUNNING}
        assert set(states) <= {RunState.SUCCEEDED, RunState.LOST} | on_their_way, states


def due_at(instant: datetime | None) -> float:
    """Unix seconds."""
    assert instant is not None
    return instant.timestamp()


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    """Running, and whole."""
    needs("redis-server")
    with Sentinels(tmp_path / "sentinels") as sentinels:
        yield sentinels


@pytest.fixture
def scene(sentinels: Sentinels, processes: Processes, home: Path) -> Iterator[Scene]:
    """Beats and a worker at work."""
    scene = Scene(sentinels, processes, home)
    scene.up()
    yield scene
    scene.database.close()


def go_on(scene: Scene, master: RedisServer, lost_at: float, *, within_seconds: float) -> None:
    """Wait until another server is the master and jobs run again."""
    scene.sentinels.await_failover(master)
    promoted_at = time.time()
    scene.await_started(1)
    first_at = time.time()
    scene.await_started(5)
    parts = (promoted_at - lost_at, first_at - promoted_at, time.time() - promoted_at)
    print("promoted after {:.1f} s, the first run {:.1f} s later, six {:.1f} s".format(*parts))
    assert first_at - promoted_at < within_seconds


def test_a_master_that_is_killed_costs_seconds_and_no_occurrence(scene: Scene) -> None:
    master, lost_at = scene.sentinels.master, time.time()
    master.signal(signal.SIGKILL)
    go_on(scene, master, lost_at, within_seconds=15)
    scene.settle()
    scene.check([lost_at])


def test_a_master_that_stands_still_and_comes_back_is_a_replica_to_everybody(
    scene: Scene,
) -> None:
    master, lost_at = scene.sentinels.master, time.time()
    master.signal(signal.SIGSTOP)
    go_on(scene, master, lost_at, within_seconds=15)
    # It wakes up as a master that nobody has told yet, with what was sent to it meanwhile.
    master.signal(signal.SIGCONT)
    scene.sentinels.await_demoted(master)
    scene.await_started(4)
    scene.settle()
    scene.check([lost_at])


def test_a_planned_failover_is_one_too(scene: Scene) -> None:
    """The master is well, and is demoted: what it answers with READONLY is a lost connection."""
    master, lost_at = scene.sentinels.master, time.time()
    scene.sentinels.fail_over()
    go_on(scene, master, lost_at, within_seconds=15)
    scene.settle()
    scene.check([lost_at])


def test_a_project_goes_on_with_the_new_master(sentinels: Sentinels, tmp_path: Path) -> None:
    server = Guarded(sentinels)
    with Bed("guarded", tmp_path, server=server) as bed:
        bed.environment["BROKER"] = sentinels.broker
        bed.up()
        bed.await_notes("tick", 2)
        bed.await_notes("later", 2)
        master = sentinels.master
        master.signal(signal.SIGKILL)
        sentinels.await_failover(master)
        bed.await_notes("tick", len(bed.notes("tick")) + 3)
        bed.await_notes("later", len(bed.notes("later")) + 3)
        bed.await_run("tick", lambda run: run.state is RunState.SUCCEEDED)
        told = bed.command("-A", "guarded", "doctor")
        assert "at sentinel://127.0.0.1" in told.stdout
        assert not [line for line in told.stdout.splitlines() if line.startswith("fail")]


def test_the_sentinels_user_needs_one_command_and_is_told_when_it_lacks_it(
    tmp_path: Path, processes: Processes
) -> None:
    needs("redis-server")
    right = " ".join(sentinel_rules())
    lines = f"user asks on >s3cret {right}\nuser other on >s3cret -@all +ping\n"
    with Sentinels(tmp_path / "sentinels", sentinel_lines=lines) as sentinels:
        for user in ("asks", "other"):
            login = f"&sentinel_username={user}&sentinel_password=s3cret"
            processes.environment["HERMES_REDIS_URL"] = sentinels.url + login
            if user == "asks":
                processes.celery("worker")
                processes.celery("beat")
                database = Database(
                    connect(sentinels.url + login),
                    keys=Keys(namespace=processes.environment["HERMES_CELERY_NAMESPACE"]),
                )
                await_worker(database)
                await_leader(database)
                database.close()
                continue
            refused = processes.celery("worker")
            assert refused.wait(40) == 1
            said = processes.log(refused)
            (sentence,) = [line for line in said.splitlines() if line.startswith("Error: ")]
            assert "each Sentinel's user 'other' may not run SENTINEL|MASTERS" in sentence
            assert "s3cret" not in said
            assert "Traceback" not in said
        login = "&sentinel_username=asks&sentinel_password=wr0ng"
        processes.environment["HERMES_REDIS_URL"] = sentinels.url + login
        told = processes.hermes("list")
        assert (told.returncode, told.stderr.count("\n")) == (1, 1)
        assert "a Sentinel refuses the login" in told.stderr
        assert "wr0ng" not in told.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("replicas", [1, 2])
def test_one_failover_after_the_other(
    replicas: int, processes: Processes, home: Path, tmp_path: Path
) -> None:
    """Killed, frozen and woken, demoted by hand: in turn, with the lost server back each time.

    With two replicas a master that none of them follows refuses to write.
    """
    needs("redis-server")
    safe = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
    options = safe if replicas > 1 else ()
    with Sentinels(tmp_path / "sentinels", *options, replicas=replicas) as sentinels:
        scene = Scene(sentinels, processes, home)
        scene.up()
        lost_at = []
        for number in range(6):
            lost_at.append(time.time())
            lose_and_return(scene, number)
        scene.settle(until_all_ended=True)
        scene.check(lost_at)
        scene.database.close()


def lose_and_return(scene: Scene, number: int) -> None:
    """Lose the master in one of three ways, wait until jobs run, and let it come back."""
    master, lost_at = scene.sentinels.master, time.time()
    way = number % 3
    if way == 0:
        master.signal(signal.SIGKILL)
    elif way == 1:
        master.signal(signal.SIGSTOP)
    else:
        scene.sentinels.fail_over()
    go_on(scene, master, lost_at, within_seconds=30)
    if way == 0:
        master.end()
        master.start()
    elif way == 1:
        master.signal(signal.SIGCONT)
    scene.sentinels.await_replica()
    scene.await_started(6)


class Guarded:
    """The server of a bed: whichever the Sentinels name."""

    def __init__(self, sentinels: Sentinels) -> None:
        self.url = sentinels.url
        self.port = sentinels.ports[0]
        self._sentinels = sentinels

    def start(self) -> None:
        """It runs already."""

    def end(self) -> None:
        """It ends with the Sentinels."""

    def signal(self, number: signal.Signals) -> None:
        """Send one to the master."""
        self._sentinels.master.signal(number)
