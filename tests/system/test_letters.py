"""Tests that malformed messages, refusing servers and too few open files do no silent harm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hermes_celery import embedded_server
from hermes_celery.client import Client
from hermes_celery.core.run import RunState
from hermes_celery.settings import read_settings
from hermes_celery.store import Database, Letters, connect
from hermes_celery.store.keys import Keys
from hermes_celery.wiring.client import open_cron
from tests.bad_messages import SELECTION, corpus, good
from tests.conftest import await_server
from tests.support import eventually
from tests.system.conftest import Processes, await_leader, await_worker, script, script_job

pytestmark = pytest.mark.system

_POOLS = ["prefork", "threads", "gevent", "solo"]
#: Malformed messages that Celery accepts and handles without an error.
_HARMLESS = {"a session that is a number", "an eta beyond the calendar",
             "an unknown encoding"}  # fmt: skip


class Harness:
    """Starts workers, pushes raw messages, and checks that a worker still performs runs."""

    def __init__(self, processes: Processes, database: Database, cron: Client, home: Path) -> None:
        script(home, "hi.sh", "echo hi")
        self.database = database
        self.letters = Letters(database)
        self._cron = cron
        self._processes = processes
        self._job_id = cron.add(script_job("every 1h", "hi.sh")).id

    def worker(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it is alive."""
        process = self._processes.celery("worker", "-l", "INFO", *arguments)
        await_worker(self.database)
        return process

    def push(self, raw: bytes) -> None:
        """Push a raw message to the default queue."""
        self.database.call("LPUSH", self.database.keys.default_queue, raw)

    def assert_works(self, worker: subprocess.Popen[bytes], after: object = None) -> None:
        """Assert that this worker process still performs a run."""
        run_id = self._cron.run(self._job_id)

        def is_finished() -> bool:
            assert worker.poll() is None, (after, self._processes.log(worker)[-3000:])
            return self._cron.runs.get(run_id).state.is_final

        eventually(is_finished, what=f"a run after {after}")
        assert self._cron.runs.get(run_id).state is RunState.SUCCEEDED, after


@pytest.fixture
def harness(processes: Processes, valkey: Database, cron: Client, home: Path) -> Harness:
    return Harness(processes, valkey, cron, home)


@pytest.mark.parametrize("pool", _POOLS)
def test_a_worker_continues_after_several_malformed_messages(harness: Harness, pool: str) -> None:
    worker = harness.worker("--pool", pool)
    for _ in range(3):
        for name in SELECTION:
            harness.push(corpus()[name])
    harness.assert_works(worker, "the selection")
    assert harness.letters.total() == 3 * len(SELECTION)
    whys = [letter.why for letter in harness.letters.latest(limit=len(SELECTION))]
    assert whys[0] == "its task 'no.such.task' is not registered on this worker"
    assert all(letter.worker.endswith(f":{worker.pid}") for letter in harness.letters.latest())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pool", _POOLS)
def test_a_worker_continues_after_each_malformed_message(harness: Harness, pool: str) -> None:
    worker = harness.worker("--pool", pool)
    harmless = set()
    for name, raw in corpus().items():
        before = harness.letters.total()
        harness.push(raw)
        harness.assert_works(worker, name)
        if harness.letters.total() == before:
            harmless.add(name)
    assert harmless == _HARMLESS
    for raw in corpus().values():
        harness.push(raw)
    harness.assert_works(worker, "all of them together")
    assert harness.letters.total() == 2 * (len(corpus()) - len(harmless))
    unacked = harness.database.call("HVALS", "unacked")
    assert not [raw for raw in unacked if harness.database.keys.namespace in raw]


def test_malformed_messages_cost_no_pause(harness: Harness) -> None:
    """If Celery took a message for a lost connection, it would log that and pause for a second."""
    worker = harness.worker()
    for name in SELECTION * 20:
        harness.push(corpus()[name])
    harness.assert_works(worker, "many")
    log = harness._processes.log(worker)
    assert "Connection to broker lost" not in log
    assert log.count("letter.kept") == 1


def test_malformed_broadcasts_end_no_worker(harness: Harness) -> None:
    worker = harness.worker()
    exchanges = ("celery.pidbox", "celeryev/worker.heartbeat")
    for exchange in exchanges:
        for name in (*SELECTION, "null", "deep nesting", "properties are null"):
            harness.database.call("PUBLISH", f"/0.{exchange}", corpus()[name])
    harness.assert_works(worker, "broadcasts")
    assert "(broadcast) celery.pidbox" in {letter.queue for letter in harness.letters.latest()}


def test_a_run_whose_message_is_malformed_each_time_fails_with_the_reason(
    harness: Harness, cron: Client, valkey: Database
) -> None:
    run_id = cron.run(harness._job_id)
    queue = valkey.keys.default_queue
    message = json.loads(valkey.call("LPOP", queue))
    message["headers"]["timelimit"] = "soon"
    worker = harness.worker()
    for _ in range(2):
        harness.push(json.dumps(message).encode())
    harness.assert_works(worker, "two broken messages")
    assert cron.runs.get(run_id).state is RunState.QUEUED
    harness.push(json.dumps(message).encode())
    eventually(lambda: cron.runs.get(run_id).state.is_final, what="the failed run")
    run = cron.runs.get(run_id)
    assert run.state is RunState.FAILED
    assert "its header timelimit is 'soon'" in (run.error or "")


# --- servers that refuse ------------------------------------------------------------------------


@pytest.fixture
def own_server(tmp_path: Path, environment: dict[str, str]) -> Iterator[Database]:
    """Yield the database of a server that only this test and its processes use."""
    state_dir = tmp_path / "server"
    state_dir.mkdir()
    process = subprocess.Popen(
        embedded_server.server_command(state_dir),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = environment["HERMES_REDIS_URL"] = embedded_server.url(state_dir)
    try:
        await_server(url)
        database = Database(
            connect(url), keys=Keys(namespace=environment["HERMES_CELERY_NAMESPACE"])
        )
        yield database
        database.close()
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def own_harness(
    own_server: Database, processes: Processes, environment: Mapping[str, str], home: Path
) -> Harness:
    return Harness(processes, own_server, open_cron(read_settings(dict(environment))), home)


@pytest.mark.parametrize("stale", ["yes", "no"])
def test_beat_and_worker_continue_after_their_server_was_a_replica(
    own_harness: Harness, own_server: Database, processes: Processes, cron: Client, stale: str
) -> None:
    """A replica answers READONLY, or MASTERDOWN without stale data; BRPOP ends with UNBLOCKED."""
    beat, worker = processes.celery("beat"), own_harness.worker()
    await_leader(own_server)
    job_id = cron.add(script_job("every 1s", "hi.sh")).id
    eventually(lambda: cron.latest_runs(job_id, state=RunState.SUCCEEDED), what="a run")
    own_server.call("CONFIG", "SET", "replica-serve-stale-data", stale)
    own_server.call("REPLICAOF", "127.0.0.1", 1)
    eventually(
        lambda: "Connection to broker lost" in processes.log(worker),
        what="a worker that lost its server",
    )
    eventually(
        lambda: "beat.store_failed" in processes.log(beat), what="a beat that lost its server"
    )
    refused = processes.hermes("list")
    assert refused.returncode == 1
    assert "replica" in refused.stderr
    own_server.call("REPLICAOF", "NO", "ONE")
    now = cron.now
    eventually(
        lambda: [
            run
            for run in cron.latest_runs(job_id, state=RunState.SUCCEEDED, limit=3)
            if run.due_at > now
        ],
        what="the next occurrence",
    )
    assert (beat.poll(), worker.poll()) == (None, None)


def test_a_worker_continues_after_its_blocking_read_was_refused(
    own_harness: Harness, own_server: Database, processes: Processes
) -> None:
    worker = own_harness.worker()
    lost = "Connection to broker lost"

    def unblock() -> bool:
        for client in own_server.client.client_list():
            if client["cmd"] == "brpop":
                own_server.call("CLIENT", "UNBLOCK", client["id"], "ERROR")
        return lost in processes.log(worker)

    eventually(unblock, what="a blocking read ended with an error")
    own_harness.assert_works(worker, "UNBLOCKED")
    own_server.call("SET", own_server.keys.delivery_queue, "no list")
    eventually(lambda: processes.log(worker).count(lost) >= 2, what="a refused read")
    own_server.call("DEL", own_server.keys.delivery_queue)
    own_harness.assert_works(worker, "WRONGTYPE")


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_a_replica_is_refused_at_start_with_an_error_of_one_sentence(
    own_server: Database, processes: Processes, command: str
) -> None:
    own_server.call("REPLICAOF", "127.0.0.1", 1)
    process = processes.celery(command)
    assert process.wait(30) == 1
    log = processes.log(process)
    assert "it is a replica of 127.0.0.1:1 and takes no writes; name the primary" in log
    assert "Traceback" not in log


# --- too few open files --------------------------------------------------------------------------


def limited(processes: Processes, limit: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a worker under a limit set with `ulimit`."""
    command = [sys.executable, "-m", "celery", "-A", "hermes_celery", "worker", *arguments]
    return processes.start(["bash", "-c", f'ulimit {limit}; exec "$@"', "bash", *command])


def test_a_worker_with_too_few_open_files_for_its_slots_names_the_limit_and_exits(
    processes: Processes,
) -> None:
    worker = limited(processes, "-n 60", "--concurrency", "8")
    assert worker.wait(30) == 1
    log = processes.log(worker)
    assert "Error: this process may open 60 files and a worker with 8 slots needs about 128" in log
    assert "Traceback" not in log


def test_a_soft_limit_of_open_files_is_raised_as_far_as_needed(
    processes: Processes, harness: Harness, valkey: Database
) -> None:
    worker = limited(processes, "-Sn 60", "--concurrency", "8")
    await_worker(valkey)
    harness.assert_works(worker)
    limits = Path(f"/proc/{worker.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3] == "128"


def test_a_worker_that_runs_out_of_open_files_exits_with_an_error(
    processes: Processes,
) -> None:
    worker = limited(processes, "-n 20", "--pool", "threads", "--concurrency", "8")
    assert worker.wait(60) == 1
    assert "it ran out of open files" in processes.log(worker)


def test_each_message_of_the_corpus_is_malformed_in_one_place_only(
    harness: Harness, valkey: Database
) -> None:
    worker = harness.worker()
    harness.push(json.dumps(good()).encode())
    harness.assert_works(worker, "a good message")
    assert harness.letters.total() == 0
