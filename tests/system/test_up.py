"""Tests `hermes-celery up`: it starts, restarts and stops all parts and keeps its state."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_celery.cli.exit_codes import ExitCode
from tests.pace import quiet_seconds_until
from tests.support import eventually
from tests.system.conftest import Processes, script

pytestmark = pytest.mark.system


@pytest.fixture
def home() -> Iterator[Path]:
    """Yield a home with a short path, since a socket's path may have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="hc-") as directory:
        (Path(directory) / "scripts").mkdir()
        yield Path(directory)


@pytest.fixture
def processes(home: Path, tmp_path: Path) -> Iterator[Processes]:
    """Yield a starter of processes with this home and without HERMES_REDIS_URL."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = {**kept, "HERMES_HOME": str(home), "HERMES_TIMEZONE": "UTC",
                   "HERMES_CELERY_GRACE": "3", "PYTHONUNBUFFERED": "1"}  # fmt: skip
    processes = Processes(environment, tmp_path)
    yield processes
    processes.end_all()


def brought_up(processes: Processes, *arguments: str) -> subprocess.Popen[bytes]:
    """Start `up` and wait until it is ready."""
    up = processes.start([sys.executable, "-m", "hermes_celery", "up", *arguments])
    eventually(
        lambda: "hermes-celery is up" in processes.log(up) or up.poll() is not None,
        what="an `up` that is ready",
    )
    assert up.poll() is None, processes.log(up)
    return up


def below(home: Path) -> list[int]:
    """Return the ids of all living processes whose HERMES_HOME is this home."""
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


def test_up_demo_shows_its_runs_and_stops_its_parts_in_order(
    processes: Processes, home: Path
) -> None:
    up = brought_up(processes, "--demo")
    eventually(lambda: "hello: succeeded" in processes.log(up), what="a run of the demo job")
    log = processes.log(up)
    assert "(embedded Valkey)" in log
    assert "4 runs at once" in log
    up.send_signal(signal.SIGINT)
    assert up.wait(30) == 0
    log = processes.log(up)
    steps = ("stopping the beat", "stopping the worker", "stopping the server")
    assert [log.index(step) for step in steps] == sorted(log.index(step) for step in steps)
    assert below(home) == []


def test_an_up_without_a_server_does_not_report_that_it_stops_parts(
    processes: Processes,
) -> None:
    command = [sys.executable, "-m", "hermes_celery", "up"]
    up = processes.start(command, HERMES_REDIS_URL="redis://127.0.0.1:1/0")
    assert up.wait(30) == 1
    log = processes.log(up)
    assert "no Redis at redis://127.0.0.1:1/0" in log
    assert "stopping" not in log


def test_the_commands_that_up_suggests_work_in_a_new_terminal(
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


def test_jobs_and_output_survive_a_restart_of_up(processes: Processes, home: Path) -> None:
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


def test_logs_show_the_outcome_on_a_line_of_its_own_after_the_output(
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


def test_a_second_up_names_the_process_that_already_runs(processes: Processes) -> None:
    first = brought_up(processes)
    second = processes.hermes("up")
    assert second.returncode == 1
    assert f"runs already on {processes.environment['HERMES_HOME']}" in second.stderr
    assert f"process {first.pid}" in second.stderr
    assert first.poll() is None


def test_a_killed_up_leaves_no_process_behind(processes: Processes, home: Path) -> None:
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


def test_a_running_job_may_finish_within_the_grace_period_when_up_stops(
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


def test_a_stop_says_what_runs_and_how_long_it_takes_and_answers_a_second_ctrl_c(
    processes: Processes, home: Path
) -> None:
    """`up` then shows that the run was cancelled."""
    script(home, "slow.sh", "trap '' TERM; echo begun > begun; sleep 600")
    up = brought_up(processes)
    processes.hermes("add", "every 1h", "--script", "slow.sh", "--no-agent")
    processes.hermes("run", "slow.sh")
    eventually(lambda: (home / "scripts" / "begun").exists(), what="the run")
    eventually(
        lambda: json.loads(processes.hermes("runs", "--json").stdout)[0]["state"] == "running",
        what="a run that is known to run",
    )
    up.send_signal(signal.SIGINT)
    eventually(
        lambda: "stopping the worker; 1 run is under way and gets 3 s" in processes.log(up),
        what="the line about the worker",
    )
    assert "stopping the beat; everything is stopped in 37 s at most" in processes.log(up)
    assert "already stopping" not in processes.log(up)
    up.send_signal(signal.SIGINT)
    eventually(lambda: "already stopping; " in processes.log(up), what="an answer")
    assert up.wait(40) == 0
    log = processes.log(up)
    assert log.index("slow.sh: cancelled in ") > log.index("already stopping; ")
    assert below(home) == []


def test_up_shows_a_run_that_was_never_performed_without_a_time(
    processes: Processes, home: Path
) -> None:
    script(home, "slow.sh", "sleep 600")
    up = brought_up(processes, "--demo")
    processes.hermes("add", "every 1s", "--script", "slow.sh", "--no-agent", "--name", "slow")
    eventually(lambda: "slow: skipped  " in processes.log(up), what="a skipped run")
    assert "in -" not in processes.log(up)


def test_up_restarts_a_part_that_died(processes: Processes, home: Path) -> None:
    up = brought_up(processes)
    beat = int(processes.log(up).split("beat    process ")[1].split()[0])
    os.kill(beat, signal.SIGKILL)
    eventually(
        lambda: "beat ended (exit -9), starting it again" in processes.log(up),
        what="the log line about the restart",
    )

    def another_leads() -> bool:
        status = json.loads(processes.hermes("status", "--json").stdout)
        return bool(status["leader"]) and f":{beat}:" not in status["leader"]

    eventually(another_leads, what="another leader")


def test_up_starts_several_beats_that_share_the_shards_of_a_split_due_index(
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

    eventually(lambda: len(led()) == count, what="a leader for each shard")

    def shown() -> set[str]:
        return set(re.findall(r"(job \d): succeeded", processes.log(up)))

    eventually(lambda: shown() == names, what="runs of all jobs in both shards")
    up.send_signal(signal.SIGINT)
    assert up.wait(30) == 0
    assert below(home) == []


def test_a_command_without_a_server_says_how_to_start_one(processes: Processes) -> None:
    told = processes.hermes("list")
    assert told.returncode == 1
    assert told.stderr.count("\n") == 1
    assert "start `hermes-celery up`" in told.stderr


def test_a_command_on_a_home_without_up_names_the_home_and_its_variable(
    processes: Processes, home: Path
) -> None:
    told = processes.hermes("list").stderr
    assert f"no server of `hermes-celery up` runs on the home {home}: " in told
    assert "`export HERMES_HOME=...` here too" in told
    assert told.count("valkey.sock") == 1
    assert "(No such file or directory)" in told
    del processes.environment["HERMES_HOME"]
    processes.environment["HOME"] = str(home)
    told = processes.hermes("list").stderr
    assert f"runs on the default home {home}/.hermes: " in told


@pytest.mark.parametrize("command", ["beat", "worker"])
def test_a_process_that_waits_for_up_names_the_home(
    processes: Processes, home: Path, command: str
) -> None:
    process = processes.celery(command)
    eventually(lambda: "Waiting: " in processes.log(process), what="the log line about waiting")
    told = processes.log(process)
    assert f"no server of `hermes-celery up` runs on the home {home}: " in told
    assert "`export HERMES_HOME=...` here too" in told


def test_a_server_of_up_that_refuses_its_user_is_not_said_to_be_missing(
    processes: Processes, home: Path
) -> None:
    where = home / "cron" / "hermes-celery"
    (where / "valkey.sock").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        (where / "valkey.sock").rmdir()
        listener.bind(str(where / "valkey.sock"))
        listener.listen()
        told = processes.hermes("list").stderr
    assert f"this is the server of `hermes-celery up` on the home {home}: start it again" in told


def test_up_exits_with_the_reason_if_a_part_cannot_start_the_first_time(
    processes: Processes, home: Path
) -> None:
    """The worker's slots need more open files than its limit allows."""
    limited = ["/bin/sh", "-c", 'ulimit -n 400 && exec "$@"', "sh"]
    up = processes.start(
        [*limited, sys.executable, "-m", "hermes_celery", "up"], HERMES_CRON_MAX_WORKERS="900"
    )
    took = quiet_seconds_until(lambda: up.poll() is not None, seconds=60, what="its end")
    assert up.returncode == 1
    log = processes.log(up)
    assert "Error: the worker does not start: this process may open 400 files" in log
    assert "fewer slots" in log
    assert "worker.log" in log
    assert "Traceback" not in log
    assert took < 20, "it exits without waiting for the other parts"
    assert below(home) == []


def test_up_keeps_restarting_a_part_that_ran_before_and_shows_why_it_fails(
    processes: Processes, home: Path
) -> None:
    up = brought_up(processes)
    (home / ".env").mkdir()
    beat = int(re.findall(r"beat    process (\d+)", processes.log(up))[0])
    os.kill(beat, signal.SIGKILL)
    eventually(
        lambda: "beat ended (exit 1: Error: HERMES_HOME is" in processes.log(up),
        what="the reason why the beat fails to start",
    )
    assert up.poll() is None
    (home / ".env").rmdir()
    eventually(
        lambda: json.loads(processes.hermes("status", "--json").stdout)["leader"],
        what="a beat that leads again",
    )


@pytest.mark.parametrize("what", ["home", "cron/hermes-celery", "cron/hermes-celery/data"])
def test_up_ends_with_an_error_when_its_directory_is_removed(
    processes: Processes, home: Path, what: str
) -> None:
    up = brought_up(processes)
    shutil.rmtree(home if what == "home" else home / what)
    assert up.wait(60) == ExitCode.FAILED
    home.mkdir(exist_ok=True)
    log = processes.log(up)
    gone = home / ("cron/hermes-celery" if what == "home" else what)
    assert f"Error: {gone} was removed or replaced while `hermes-celery up` ran, " in log
    assert "stopping the server; jobs and runs are lost" in log
    assert "Traceback" not in log
    assert below(home) == []


def test_up_ends_with_an_error_when_its_lock_is_removed(processes: Processes, home: Path) -> None:
    up = brought_up(processes)
    lock = home / "cron/hermes-celery/up.lock"
    lock.unlink()
    assert up.wait(60) == ExitCode.FAILED
    log = processes.log(up)
    assert f"Error: {lock} was removed or replaced while `hermes-celery up` ran, " in log
    assert "stopping the server; jobs and runs are kept" in log


def test_up_starts_the_server_again_when_its_socket_is_removed(
    processes: Processes, home: Path
) -> None:
    up = brought_up(processes)
    added = processes.hermes("add", "every 1d", "--script", script(home, "hi.sh", "echo hi"),
                             "--no-agent", "--name", "kept")  # fmt: skip
    assert added.returncode == 0, added.stderr
    (home / "cron/hermes-celery/valkey.sock").unlink()
    eventually(lambda: "was removed; starting the server again" in processes.log(up))
    eventually(
        lambda: processes.hermes("run", "kept", "--wait").returncode == 0, what="a run after that"
    )
    up.terminate()
    assert up.wait(60) == 0
    assert "Traceback" not in processes.log(up)


@pytest.mark.parametrize("how", ["renamed", "removed"])
def test_up_ends_with_an_error_when_its_data_are_replaced(
    processes: Processes, home: Path, how: str
) -> None:
    up = brought_up(processes)
    data = home / "cron/hermes-celery/data"
    if how == "renamed":
        data.rename(data.with_name("old"))
    else:
        shutil.rmtree(data)
    # A file system may give a new directory the number of the one that was just removed.
    data.mkdir()
    assert up.wait(60) == ExitCode.FAILED
    assert f"Error: {data} was removed or replaced" in processes.log(up)
