"""Tests a Redis server that is out of memory, restarted, or cannot write to its disk."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from hermes_celery import embedded_server
from hermes_celery.client import Client
from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import RunState
from hermes_celery.errors import StoreError
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.settings import read_settings
from hermes_celery.store import Database, connect
from hermes_celery.wiring.client import open_cron
from tests.conftest import await_server
from tests.support import HandClock, Store, eventually
from tests.system.conftest import Processes, await_leader, await_worker, script, script_job

pytestmark = pytest.mark.system


@contextmanager
def full(database: Database) -> Iterator[None]:
    """Set the server's memory limit so low that it refuses every write."""
    database.call("CONFIG", "SET", "maxmemory", "1")
    try:
        yield
    finally:
        database.call("CONFIG", "SET", "maxmemory", "0")


def keys_and_values(database: Database) -> dict[str, object]:
    """Return every key of the namespace with its value."""
    keys = database.call("KEYS", f"{database.keys.prefix}*")
    return {key: database.raw("DUMP", key) for key in keys}


def test_a_full_server_refuses_each_write_as_a_whole(valkey: Database) -> None:
    store = Store(valkey, HandClock())
    valkey.call("SET", valkey.keys.term, 1)
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="n"))
    store.clock.advance(3600)
    before = keys_and_values(valkey)
    with full(valkey):
        for attempt in (
            lambda: store.cron.add(JobRequest(schedule="every 1h", prompt="x")),
            lambda: store.cron.edit(job.id, {"prompt": "y"}),
            lambda: store.cron.run(job.id),
            lambda: Ticker(store.due, store.messages).tick(token=1, now_ms=store.clock.ms),
        ):
            with pytest.raises(StoreError, match="maxmemory"):
                attempt()
            assert keys_and_values(valkey) == before
    assert Ticker(store.due, store.messages).tick(token=1, now_ms=store.clock.ms).dispatched == 1


def test_a_result_is_offered_again_until_a_full_server_has_room(
    processes: Processes, valkey: Database, cron: Client, home: Path
) -> None:
    worker = processes.celery("worker")
    await_worker(valkey)
    script(home, "slow.sh", "touch begun; while [ ! -e go ]; do sleep 0.05; done; echo done")
    run_id = cron.run(cron.add(script_job("every 1h", "slow.sh")).id)
    eventually(lambda: (home / "scripts" / "begun").exists(), what="the run")
    with full(valkey):
        told = processes.hermes("add", "every 1h", "x")
        assert told.returncode == 1
        assert "maxmemory" in told.stderr
        (home / "scripts" / "go").touch()
        eventually(lambda: "run.finish_waits" in processes.log(worker), what="a result that waits")
        assert cron.runs.get(run_id).state is RunState.RUNNING
    eventually(lambda: cron.runs.get(run_id).state is RunState.SUCCEEDED, what="the result")
    assert cron.runs.output(run_id) == b"done\n"


@pytest.fixture
def own_server() -> Iterator[Server]:
    """Yield a running server that the test may stop and start."""
    with tempfile.TemporaryDirectory(prefix="hc-") as directory:
        server = Server(Path(directory))
        server.start()
        yield server
        server.stop(kill=True)


class Server:
    """Runs a Valkey with an append-only file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.url = embedded_server.url(directory)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._process = subprocess.Popen(
            embedded_server.server_command(self._directory),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await_server(self.url)

    def stop(self, *, kill: bool = False) -> None:
        """Stop the server, or kill it, and wait until it has exited."""
        if self._process is not None:
            self._process.kill() if kill else self._process.terminate()
            self._process.wait(40)
            self._process = None


def test_beat_and_worker_continue_after_the_server_restarts(
    own_server: Server, environment: dict[str, str], tmp_path: Path, home: Path
) -> None:
    environment = {**environment, "HERMES_REDIS_URL": own_server.url}
    processes = Processes(environment, tmp_path)
    cron = open_cron(read_settings(environment))
    database = cron.jobs._database
    try:
        beat, worker = processes.celery("beat"), processes.celery("worker")
        await_leader(database)
        await_worker(database)
        script(home, "hi.sh", "echo hi")
        job = cron.add(script_job("every 1s", "hi.sh"))
        eventually(lambda: cron.latest_runs(state=RunState.SUCCEEDED), what="a run")
        own_server.stop()
        eventually(
            lambda: "beat.store_failed" in processes.log(beat), what="an error in the beat's log"
        )
        own_server.start()
        before = cron.show(job.id)
        assert before.revision == 1
        known = {run.id for run in cron.latest_runs(limit=1000)}
        eventually(
            lambda: [
                run
                for run in cron.latest_runs(state=RunState.SUCCEEDED, limit=1000)
                if run.id not in known
            ],
            what="a run after the restart",
        )
        assert processes.log(beat).count("beat.store_failed") == 1
        assert beat.poll() is None
        assert worker.poll() is None
    finally:
        processes.end_all()


@contextmanager
def server_with_a_small_disk() -> Iterator[str]:
    """Yield the URL of a server whose files may hold 256 KiB; more fails as on a full disk."""
    with tempfile.TemporaryDirectory(prefix="hc-") as directory:
        socket = Path(directory) / "valkey.sock"
        binary = embedded_server.server_command(Path(directory))[0]
        command = [binary, "--port", "0", "--unixsocket", str(socket), "--dir", directory,
                   "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]  # fmt: skip
        # Ignore SIGXFSZ, so that the server gets an error instead of a signal.
        limited = ["/bin/sh", "-c", "trap '' XFSZ; ulimit -f 512; exec \"$@\"", "sh", *command]
        process = subprocess.Popen(limited, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            await_server(f"unix://{socket}")
            yield f"unix://{socket}"
        finally:
            process.kill()
            process.wait()


def fill(client: redis.Redis) -> None:
    """Write more than the server may save."""
    for _ in range(20):
        client.set("filler", "x" * 100_000)
        # The server notices within a second and refuses writes only then.
        eventually(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0, what="a save")


def test_up_reports_that_the_server_cannot_save_and_when_it_can_again(processes: Processes) -> None:
    with server_with_a_small_disk() as url:
        processes.environment["HERMES_REDIS_URL"] = url
        up = processes.start([sys.executable, "-m", "hermes_celery", "up"])
        eventually(lambda: "hermes-celery is up" in processes.log(up), what="an `up` that is ready")
        said = "nothing is queued or recorded: the server cannot save"
        with connect(url) as client:
            with pytest.raises(redis.RedisError):
                fill(client)
            eventually(
                lambda: said in processes.log(up), what="a report that the server cannot save"
            )
            refused = processes.hermes("add", "every 1h", "say hi")
            assert refused.returncode == 1
            assert "the server cannot save to its disk" in refused.stderr
            assert "make room on that disk" in refused.stderr
            looked = processes.hermes("doctor")
            assert "the server cannot save to its disk" in looked.stdout
            client.config_set("appendonly", "no")
        eventually(
            lambda: "the server saves to its disk again" in processes.log(up),
            what="a report that it can",
        )
        up.terminate()
        assert up.wait(30) == 0
