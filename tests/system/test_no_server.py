"""Tests processes whose Redis server is unreachable at their start or never answers."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_celery.cli.exit_codes import ExitCode
from hermes_celery.core.job import JobRequest
from hermes_celery.settings import read_settings
from hermes_celery.wiring.client import open_cron
from hermes_celery.wiring.server import open_database
from tests.pace import quiet_seconds_until
from tests.projects.bed import Bed, Server
from tests.support import eventually
from tests.system.conftest import Processes

pytestmark = pytest.mark.system


@pytest.fixture
def early(tmp_path: Path) -> Iterator[Bed]:
    """Yield a project whose server is not running."""
    bed = Bed("early", tmp_path)
    yield bed
    bed.__exit__()


@pytest.fixture
def black_hole() -> Iterator[str]:
    """Yield the URL of a server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


def await_word(bed: Bed, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has logged that it waits for its server."""
    eventually(
        lambda: "Waiting: no Redis at" in bed.log(process), what="the log line about waiting"
    )


def test_a_project_started_before_its_server_logs_that_once_and_then_runs(
    early: Bed,
) -> None:
    started = [early.worker(), early.beat()]
    for process in started:
        await_word(early, process)
    early.server.start()
    early.await_notes("tick")
    for process in started:
        said = early.log(process)
        assert said.count("Waiting: ") == 1
        assert "(broker_connection_retry_on_startup)" in said
        assert "The server answers; continuing" in said
        assert "start it, or correct broker_url" in said
        assert "Traceback" not in said


def test_a_process_that_must_not_wait_exits_with_an_error_of_one_sentence(early: Bed) -> None:
    for process in [early.worker(PATIENT="no"), early.beat(PATIENT="no")]:
        assert process.wait(40) == 1
        said = early.log(process)
        assert "Traceback" not in said
        (sentence,) = [line for line in said.splitlines() if line.startswith("Error: ")]
        assert f"no Redis at redis://127.0.0.1:{early.server.port}/0" in sentence
        assert "HERMES_REDIS_URL" not in sentence


def test_a_waiting_process_ends_on_sigterm(early: Bed) -> None:
    for process in [early.worker(), early.beat()]:
        await_word(early, process)
        process.send_signal(signal.SIGTERM)
        process.wait(40)
        assert "Traceback" not in early.log(process)


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_the_package_app_waits_for_its_server_too(
    processes: Processes, tmp_path: Path, command: str
) -> None:
    server = Server(tmp_path / "server")
    url = server.url.replace("//", "//:secret@")
    process = processes.celery(command, HERMES_REDIS_URL=url)
    eventually(lambda: "Waiting: " in processes.log(process), what="the log line about waiting")
    said = processes.log(process)
    assert f"no Redis at redis://:***@127.0.0.1:{server.port}/0" in said
    assert "start it, or unset HERMES_REDIS_URL" in said
    assert process.poll() is None


def test_a_wrong_password_ends_the_start_without_waiting(
    processes: Processes, tmp_path: Path
) -> None:
    server = Server(tmp_path / "server", "--requirepass", "other")
    with_secret = server.url.replace("//", "//:secret@")
    server.url = server.url.replace("//", "//:other@")
    server.start()
    try:
        process = processes.celery("worker", HERMES_REDIS_URL=with_secret)
        assert process.wait(40) == 1
        (sentence,) = [
            line for line in processes.log(process).splitlines() if line.startswith("Error: ")
        ]
        assert "give its user and password, before the @ of its URL" in sentence
        assert "secret" not in sentence
    finally:
        server.end()


def test_a_command_gives_up_on_a_server_that_never_answers_after_ten_seconds(
    processes: Processes, black_hole: str
) -> None:
    processes.environment["HERMES_REDIS_URL"] = black_hole
    began = time.monotonic()
    told = processes.hermes("list")
    took = time.monotonic() - began
    assert told.returncode == 1
    assert "no Redis at" in told.stderr
    assert told.stderr.count("\n") == 1
    assert took < 20, "two attempts to connect take 5 s each, and Python needs time to start"


@pytest.mark.parametrize("command", [("list",), ("doctor",), ("status",)], ids="".join)
def test_an_unknown_option_in_the_url_is_an_error_of_one_sentence(
    processes: Processes, command: tuple[str, ...]
) -> None:
    processes.environment["HERMES_REDIS_URL"] = "redis://127.0.0.1:1/0?foo=bar"
    told = processes.hermes(*command)
    assert told.returncode == 1
    assert "its option 'foo' is unknown" in told.stderr + told.stdout
    assert "Traceback" not in told.stderr


def test_a_beat_with_a_frozen_server_stops_within_seconds(early: Bed) -> None:
    early.server.start()
    beat = early.beat()
    early.await_leader()
    early.server.signal(signal.SIGSTOP)
    beat.terminate()
    took = quiet_seconds_until(lambda: beat.poll() is not None, seconds=60, what="the beat's end")
    assert beat.returncode == 0
    assert took < 8, early.log(beat)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("command", ["run --wait", "logs --follow"])
def test_a_command_that_waits_for_a_run_says_what_to_do_when_the_server_goes_away(
    processes: Processes, tmp_path: Path, command: str, end: signal.Signals
) -> None:
    server = Server(tmp_path / "server")
    processes.environment["HERMES_REDIS_URL"] = server.url
    server.start()
    try:
        database = open_database(read_settings(processes.environment))
        cron = open_cron(read_settings(processes.environment))
        job = cron.add(JobRequest(schedule="every 1h", prompt="p"))
        run_id = cron.run(job.id, key="k")
        database.call("SET", database.keys.output(run_id), "begun\n")
        what = [job.id, "--key", "k"] if command == "run --wait" else [run_id]
        waiting = processes.start([sys.executable, "-m", "hermes_celery", *command.split(), *what])
        first = run_id if command == "run --wait" else "begun"
        eventually(lambda: first in processes.log(waiting), what="the start of the wait")
        server.signal(end)
        assert waiting.wait(30) == ExitCode.FAILED
    finally:
        server.end()
    (sentence,) = processes.log(waiting).splitlines()[1:]
    assert sentence.startswith(f"Error: the Redis at {server.url} answers no more (")
    assert sentence.endswith(f"start the server, then `hermes-celery logs -f {run_id}`")
