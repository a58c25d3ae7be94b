"""Script runs with real child processes: how scripts are found, limited, silenced and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hermes_celery.core.output import CAP_BYTES, OutputCapture, as_text
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.errors import ScriptError
from hermes_celery.running.heartbeat import RunningRun
from hermes_celery.running.orphan_reaper import OrphanReaper
from hermes_celery.running.script import (
    ScriptRunner,
    command,
    locate,
    wakes_agent,
    without_credentials,
)
from hermes_celery.running.worker_machine import WorkerMachine
from hermes_celery.session import Session
from tests.support import a_spec, cases, eventually

_SCRIPTS = {
    "hi.sh": "echo hi",
    "empty.sh": ":",
    "fail.sh": "echo part; echo bad >&2; exit 3",
    "shebang.rb": '#!/usr/bin/env ruby\nprint("run by python, shebang ignored")',
    "err_only.sh": "echo x >&2",
    "cwd.sh": "pwd",
    "tok.sh": "echo token=ghp_A1b2C3d4E5f6G7h8I9j0",
}


_REFUSED = ("missing.sh", "~/evil.py", "adir")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a Hermes home with the recorded scripts."""
    scripts = tmp_path / "scripts"
    (scripts / "adir").mkdir(parents=True)
    for name, text in _SCRIPTS.items():
        (scripts / name).write_text(text + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def reaper() -> Iterator[OrphanReaper]:
    """Yield the reaper, which ends the process groups if this process dies."""
    reaper = OrphanReaper()
    yield reaper
    reaper.close()


def perform(
    home: Path,
    script: str | None,
    reaper: OrphanReaper,
    *,
    stop: RunningRun | None = None,
    timeout_seconds: float = 20,
    environment: dict[str, str] | None = None,
    session: Session | None = None,
    **fields: Any,
) -> Outcome:
    runner = ScriptRunner(
        WorkerMachine(
            home=home, environment=environment or {"PATH": os.environ["PATH"]}, reaper=reaper
        ),
        passthrough=frozenset(),
        timeout_seconds=timeout_seconds,
    )
    spec = a_spec(script=script, **fields)
    return runner.perform(spec, session or Session(), stop or RunningRun())


def write(home: Path, name: str, text: str) -> str:
    (home / "scripts" / name).write_text(text, encoding="utf-8")
    return name


def _scripts_of(area: str) -> list[dict[str, Any]]:
    return [case for case in cases(area) if case["input"]["script"] != "env.sh"]


@pytest.mark.parametrize(
    "case", _scripts_of("run.no_agent"), ids=lambda c: str(c["input"]["script"])
)
def test_a_script_ends_as_hermes_records_it(
    case: dict[str, Any], home: Path, reaper: OrphanReaper
) -> None:
    expected, script = case["expected"], case["input"]["script"]
    if script in _REFUSED:
        with pytest.raises(ScriptError) as error:
            locate(home / "scripts", script)
        assert str(error.value).replace(str(home), "$HERMES_HOME") == expected["error"]
        return
    if script is None:
        with pytest.raises(ScriptError, match=expected["error"]):
            perform(home, script, reaper)
        return
    outcome = perform(home, script, reaper)
    assert (outcome.state is RunState.SUCCEEDED) == expected["success"]
    assert outcome.error == expected["error"]
    assert outcome.silent == (expected["final_response"] == "[SILENT]")
    if expected["success"] and not outcome.silent:
        said = as_text(outcome.output).strip().replace(str(home), "$HERMES_HOME")
        assert said == expected["final_response"]


def test_credentials_are_removed_from_a_scripts_environment(
    home: Path, reaper: OrphanReaper
) -> None:
    (case,) = (c for c in cases("run.no_agent") if c["input"]["script"] == "env.sh")
    names = case["input"]["script_prints_item_n_for"]
    lines = [f'[ -n "${{{name}+x}}" ] && echo "item {n} present" || echo "item {n} absent"'
             for n, name in enumerate(names)]  # fmt: skip
    write(home, "env.sh", "\n".join(lines))
    environment = dict.fromkeys(case["input"]["parent_env_has"], "x") | {"PATH": os.environ["PATH"]}
    outcome = perform(home, "env.sh", reaper, environment=environment)
    assert as_text(outcome.output).strip() == case["expected"]["final_response"]


def test_urls_with_passwords_are_credentials_and_passthrough_keeps_what_it_names() -> None:
    environment = {
        "HERMES_REDIS_URL": "redis://:secret@h/0",
        "PLAIN_URL": "redis://h/0",
        "MY_TOKEN": "t",
        "KEPT_TOKEN": "t",
        "TOKENIZERS_PARALLELISM": "1",
        "MONKEY": "1",
    }
    kept = without_credentials(environment, passthrough=frozenset({"KEPT_TOKEN"}))
    assert set(kept) == {"PLAIN_URL", "KEPT_TOKEN", "TOKENIZERS_PARALLELISM", "MONKEY"}


@pytest.mark.parametrize("case", cases("run.wake_gate"), ids=lambda c: repr(c["input"]["stdout"]))
def test_the_wake_gate_is_read_as_hermes_reads_it(case: dict[str, Any]) -> None:
    assert wakes_agent(case["input"]["stdout"]) == case["expected"]["wake"]


def test_a_closed_wake_gate_is_a_silent_success(home: Path, reaper: OrphanReaper) -> None:
    write(home, "quiet.py", 'print("x")\nprint(\'{"wakeAgent": false}\')')
    outcome = perform(home, "quiet.py", reaper)
    assert (outcome.state, outcome.silent) == (RunState.SUCCEEDED, True)
    assert outcome.output.startswith(b"x\n")


def test_the_session_is_in_the_scripts_environment(home: Path, reaper: OrphanReaper) -> None:
    write(home, "who.sh", 'echo "$HERMES_CRON_RUN_ID $HERMES_SESSION_PLATFORM."')
    session = Session(run_id="r1")
    outcome = perform(home, "who.sh", reaper, session=session)
    assert outcome.output == b"r1 .\n"


def test_a_script_runs_in_its_workdir(home: Path, reaper: OrphanReaper, tmp_path: Path) -> None:
    outcome = perform(home, "cwd.sh", reaper, workdir=str(tmp_path))
    assert as_text(outcome.output).strip() == str(tmp_path)
    with pytest.raises(ScriptError, match="does not exist on this worker"):
        perform(home, "cwd.sh", reaper, workdir="/no/such/dir")


def test_a_link_out_of_the_scripts_directory_is_refused(home: Path) -> None:
    (home / "scripts" / "link.sh").symlink_to("/etc/hostname")
    with pytest.raises(ScriptError, match="outside the scripts directory"):
        locate(home / "scripts", "link.sh")


def test_the_timeout_stops_the_whole_process_group(home: Path, reaper: OrphanReaper) -> None:
    write(home, "slow.sh", 'sleep 600 &\necho "$!"\necho first\nwait')
    outcome = perform(home, "slow.sh", reaper, timeout_seconds=0.4)
    assert outcome.state is RunState.TIMED_OUT
    assert "timed out after 0.4s" in (outcome.error or "")
    assert as_text(outcome.output).endswith("first\n")
    eventually(lambda: not alive(int(outcome.output.split()[0])), what="the grandchild's end")


def test_background_processes_of_a_script_end_with_it(home: Path, reaper: OrphanReaper) -> None:
    write(home, "leave.sh", 'sleep 600 &\necho "$!"')
    outcome = perform(home, "leave.sh", reaper)
    assert outcome.state is RunState.SUCCEEDED
    eventually(lambda: not alive(int(outcome.output)), what="the grandchild's end")


def test_a_stop_ends_a_script_that_ignores_sigterm(home: Path, reaper: OrphanReaper) -> None:
    deaf = home / "deaf"
    write(home, "deaf.py", "import signal, time\nsignal.signal(15, signal.SIG_IGN)\n"
          f"open({str(deaf)!r}, 'w').close()\ntime.sleep(600)")  # fmt: skip
    stop = RunningRun()

    def ask() -> None:
        eventually(deaf.exists, what="a script that ignores SIGTERM")
        stop.set("cancel")

    asking = threading.Thread(target=ask)
    asking.start()
    outcome = perform(home, "deaf.py", reaper, stop=stop)
    asking.join()
    assert (outcome.state, outcome.exit_code) == (RunState.CANCELLED, -signal.SIGKILL)


def test_binary_output_is_stored_unchanged(home: Path, reaper: OrphanReaper) -> None:
    write(home, "bin.py", "import sys\nsys.stdout.buffer.write(bytes(range(256)))")
    assert perform(home, "bin.py", reaper).output == bytes(range(256))


def test_a_hundred_megabytes_are_capped_with_a_marker(home: Path, reaper: OrphanReaper) -> None:
    write(home, "big.py", "import sys\nfor _ in range(100): sys.stdout.write('x' * 2**20)\n"
          "print('THE END')")  # fmt: skip
    outcome = perform(home, "big.py", reaper)
    assert outcome.state is RunState.SUCCEEDED
    assert len(outcome.output) < CAP_BYTES + 200
    assert b"bytes cut: output is kept up to 1 MiB" in outcome.output
    assert outcome.output.endswith(b"THE END\n")


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 19, 20, 21, 22, 40, 1000])
@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_the_cap_keeps_the_beginning_and_the_end(size: int, chunk: int) -> None:
    content = bytes(n % 251 for n in range(size))
    capture = OutputCapture(cap_bytes=20)
    for start in range(0, size, chunk):
        capture.write(content[start : start + chunk])
    kept = capture.content()
    if size <= 20:
        assert kept == content
    else:
        assert kept.startswith(content[:10])
        assert kept.endswith(content[-10:])
        assert f"{size - 20:,} bytes cut".encode() in kept


def test_scripts_end_when_their_worker_process_is_killed(home: Path) -> None:
    write(home, "long.sh", "sleep 600 & echo $! > grandchild; wait")
    code = (
        "import sys; from pathlib import Path; from tests.unit.running.test_script import perform;"
        "from hermes_celery.running.orphan_reaper import OrphanReaper;"
        "perform(Path(sys.argv[1]), 'long.sh', OrphanReaper())"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(home)])
    note = home / "scripts" / "grandchild"
    try:
        eventually(lambda: note.exists() and note.read_text().strip(), what="the grandchild's pid")
    finally:
        worker.kill()
        worker.wait()
    eventually(lambda: not alive(int(note.read_text())), what="the grandchild's end")


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not count."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_an_interpreter_that_leads_out_of_its_directory_is_refused(tmp_path: Path) -> None:
    allowed, outside = tmp_path / "bin", tmp_path / "outside"
    allowed.mkdir()
    for program in (outside, allowed / "inside"):
        program.write_text("#!/bin/sh\n", encoding="utf-8")
        program.chmod(0o755)
    inside = str(allowed / "inside")
    assert command(Path("x"), interpreter=inside, allowed=[allowed]) == [inside, "x"]
    with pytest.raises(ScriptError, match="is not in a directory that this machine allows"):
        command(Path("x"), interpreter=f"{allowed}/../outside", allowed=[allowed])
