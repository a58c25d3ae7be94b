"""`hermes-celery up`: ready soon, stopped in order, nothing left behind, state kept."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import eventually
from tests.system.conftest import Processes, script

pytestmark = pytest.mark.system


@pytest.fixture
def home() -> Iterator[Path]:
    """A home with a short path: a socket's path has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="hc-") as directory:
        (Path(directory) / "scripts").mkdir()
        yield Path(directory)


@pytest.fixture
def processes(home: Path, tmp_path: Path) -> Iterator[Processes]:
    """Our commands on that home, without a Redis of the user's."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = {**kept, "HERMES_HOME": str(home), "HERMES_TIMEZONE": "UTC",
                   "HERMES_CELERY_GRACE": "3", "PYTHONUNBUFFERED": "1"}  # fmt: skip
    processes = Processes(environment, tmp_path)
    yield processes
    processes.end_all()


def brought_up(processes: Processes, *arguments: str) -> subprocess.Popen[bytes]:
    """An `up` that is ready."""
    up = processes.start([sys.executable, "-m", "hermes_celery", "up", *arguments])
    eventually(
        lambda: "hermes-celery is up" in processes.log(up) or up.poll() is not None,
        what="an `up` that is ready",
    )
    assert up.poll() is None, processes.log(up)
    return up


def below(home: Path) -> list[int]:
    """The processes that were told of this home, wherever they are now."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            told = f"HERMES_HOME={home}".encode() in (path / "environ").read_bytes()
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if told and state != "Z":
            found.append(int(path.name))
    return found


def test_the_demonstration_shows_its_runs_and_stops_in_order(
    processes: Processes, home: Path
) -> None:
    up = brought_up(processes, "--demo")
    eventually(lambda: "hello: succeeded" in processes.log(up), what="a run of the demonstration")
    log = processes.log(up)
    assert "(embedded Valkey)" in log
    assert "4 runs at once" in log
    up.send_signal(signal.SIGINT)
    assert up.wait(30) == 0
    log = processes.log(up)
    steps = ("stopping the beat", "stopping the worker", "stopping the server")
    assert [log.index(step) for step in steps] == sorted(log.index(step) for step in steps)
    assert below(home) == []


def test_what_it_prints_to_try_works_in_a_terminal_that_was_just_opened(
    processes: Processes, home: Path
) -> None:
    (home / "scripts").rmdir()
    up = brought_up(processes)
    printed = processes.log(up).partition("Try it in another terminal:\n")[2]
    lines = printed.partition("Ctrl-C")[0]
    assert len(lines.splitlines()) == 4
    done = subprocess.run(
        ["sh", "-e"],
        input=lines,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Filesystem" in done.stdout) == (0, True), done.stderr
    assert "scheduled" in done.stdout


def test_state_survives_a_restart(processes: Processes, home: Path) -> None:
    script(home, "hi.sh", "echo hi")
    up = brought_up(processes)
    added = processes.hermes("add", "every 1h", "--script", "hi.sh", "--no-agent", "--json")
    job = json.loads(added.stdout)
    ran = processes.hermes("run", "hi.sh", "--wait")
    assert (ran.returncode, ran.stdout) == (0, "hi\n")
    up.terminate()
    assert up.wait(30) == 0
    brought_up(processes)
    again = json.loads(processes.hermes("show", job["id"], "--json").stdout)
    assert again["next_run_at"] == job["next_run_at"]
    assert again["last_status"] == "ok"
    assert processes.hermes("logs", "hi.sh").stdout == "hi\n"


def test_how_a_run_ended_stands_on_a_line_of_its_own_where_output_is_shown(
    processes: Processes, home: Path
) -> None:
    script(home, "hi.sh", "printf hi")
    brought_up(processes)
    processes.hermes("add", "every 1h", "--script", "hi.sh", "--no-agent")
    assert processes.hermes("run", "hi.sh", "--wait").stdout == "hi"
    shown = subprocess.run(
        [sys.executable, "-m", "hermes_celery", "logs", "hi.sh"],
        env=processes.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    assert shown.stdout == "hi\nhi.sh: succeeded\n"


def test_a_second_one_says_who_runs_already(processes: Processes) -> None:
    first = brought_up(processes)
    second = processes.hermes("up")
    assert second.returncode == 1
    assert f"runs already on {processes.environment['HERMES_HOME']}" in second.stderr
    assert f"process {first.pid}" in second.stderr
    assert first.poll() is None


def test_killed_without_a_word_it_leaves_nothing_behind(processes: Processes, home: Path) -> None:
    script(home, "slow.sh", "sleep 600 & wait")
    up = brought_up(processes)
    processes.hermes("add", "every 1h", "--script", "slow.sh", "--no-agent")
    processes.hermes("run", "slow.sh")
    eventually(
        lambda: b"running" in processes.hermes("runs", "--json").stdout.encode(), what="the run"
    )
    up.kill()
    up.wait()
    eventually(lambda: below(home) == [], what="the end of every process")


def test_a_running_job_gets_its_grace_when_everything_stops(
    processes: Processes, home: Path
) -> None:
    script(home, "slow.sh", "trap '' TERM; echo begun > begun; sleep 2; echo done > done")
    up = brought_up(processes)
    processes.hermes("add", "every 1h", "--script", "slow.sh", "--no-agent")
    processes.hermes("run", "slow.sh")
    eventually(lambda: (home / "scripts" / "begun").exists(), what="the run")
    up.send_signal(signal.SIGINT)
    assert up.wait(30) == 0
    assert (home / "scripts" / "done").exists()


def test_a_part_that_dies_is_started_again(processes: Processes, home: Path) -> None:
    up = brought_up(processes)
    beat = int(processes.log(up).split("beat    process ")[1].split()[0])
    os.kill(beat, signal.SIGKILL)
    eventually(
        lambda: "beat ended (exit -9), starting it again" in processes.log(up), what="a note"
    )

    def another_leads() -> bool:
        status = json.loads(processes.hermes("status", "--json").stdout)
        return bool(status["leader"]) and f":{beat}:" not in status["leader"]

    eventually(another_leads, what="another leader")


def test_a_split_due_index_has_several_beats_which_share_it(
    processes: Processes, home: Path
) -> None:
    script(home, "hi.sh", "echo hi")
    up = brought_up(processes)
    names = {f"job {number}" for number in range(5)}
    for name in names:
        added = processes.hermes(
            *("add", "every 1s", "--script", "hi.sh", "--no-agent", "--name", name)
        )
        assert added.returncode == 0, added.stderr
    refused = processes.hermes("shards", "2")
    assert refused.returncode == 1
    assert "`hermes-celery up --shards N`" in refused.stderr
    up.send_signal(signal.SIGINT)
    assert up.wait(30) == 0

    up = brought_up(processes, "--shards", "2")
    log = processes.log(up)
    assert "the due index is split into 2;" in log
    beats = log.split("beat    process ")[1].split("\n")[0]
    count = min(2, os.cpu_count() or 1)
    assert beats.endswith(", the due index in 2 shards")
    assert len(re.findall(r"\d+(?=,)", beats)) == count

    def led() -> list[str]:
        status = json.loads(processes.hermes("status", "--json").stdout)
        return (status["leader"] or "").split(", ")

    eventually(lambda: len(led()) == count, what="each beat with a shard of its own")

    def shown() -> set[str]:
        return set(re.findall(r"(job \d): succeeded", processes.log(up)))

    eventually(lambda: shown() == names, what="runs of the jobs of both shards")
    up.send_signal(signal.SIGINT)
    assert up.wait(30) == 0
    assert below(home) == []


def test_without_a_server_a_command_says_how_to_start_one(processes: Processes) -> None:
    told = processes.hermes("list")
    assert told.returncode == 1
    assert told.stderr.count("\n") == 1
    assert "start one with `hermes-celery up`" in told.stderr


def test_a_part_that_cannot_start_ends_the_first_start_with_its_reason(
    processes: Processes, home: Path
) -> None:
    """The worker finds that its slots need more files than its limit allows."""
    began = time.monotonic()
    limited = ["/bin/sh", "-c", 'ulimit -n 400 && exec "$@"', "sh"]
    up = processes.start(
        [*limited, sys.executable, "-m", "hermes_celery", "up"], HERMES_CRON_MAX_WORKERS="900"
    )
    assert up.wait(30) == 1
    log = processes.log(up)
    assert "Error: the worker does not start: this process may open 400 files" in log
    assert "fewer slots" in log
    assert "worker.log" in log
    assert "Traceback" not in log
    assert time.monotonic() - began < 20, "it does not wait until nothing can come any more"
    assert below(home) == []


def test_a_part_that_ran_is_started_again_and_its_reason_is_shown(
    processes: Processes, home: Path
) -> None:
    up = brought_up(processes)
    (home / ".env").mkdir()
    beat = int(re.findall(r"beat    process (\d+)", processes.log(up))[0])
    os.kill(beat, signal.SIGKILL)
    eventually(
        lambda: "beat ended (exit 1: Error: HERMES_HOME is" in processes.log(up),
        what="the reason why the beat does not start any more",
    )
    assert up.poll() is None
    (home / ".env").rmdir()
    eventually(
        lambda: json.loads(processes.hermes("status", "--json").stdout)["leader"],
        what="a beat that leads again",
    )
