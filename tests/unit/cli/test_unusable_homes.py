"""With an unusable home every command prints one sentence, and no process starts."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hermes_celery.cli import main
from hermes_celery.errors import SettingsError
from hermes_celery.settings import check_home, read_settings, unusable_home

JOB = ("add", "every 5m", "--name", "x")
COMMANDS: list[tuple[str, ...]] = [
    ("up",),
    ("up", "--demo"),
    ("doctor",),
    ("status",),
    ("fsck",),
    ("tick",),
    ("list",),
    ("runs",),
    ("incidents",),
    ("letters",),
    ("show", "x"),
    ("run", "x"),
    ("next", "every 5m"),
    (*JOB, "say hi"),
    (*JOB, "--script", "hi.sh", "--no-agent"),
    (*JOB, "--deliver", "telegram:1", "say hi"),
    (*JOB, "--workdir", "WORKDIR", "say hi"),
    (*JOB, "--template", "{{ output }}", "--deliver", "file://x", "say hi"),
    ("import", "HOME"),
]


@pytest.fixture(params=["a file", "below a file", "a name that is too long", "a loop", "not ours"])
def home(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    valkey_url: str,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Point HERMES_HOME at a path that the operating system refuses."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "theirs").mkdir(mode=0)
    if request.param == "not ours" and os.access(tmp_path / "theirs", os.R_OK):
        pytest.skip("to root every directory is its own")
    path = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "home",
        "a name that is too long": tmp_path / ("x" * 300),
        "a loop": tmp_path / "loop",
        "not ours": tmp_path / "theirs",
    }[request.param]
    for name in [name for name in os.environ if name.startswith("HERMES_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HERMES_HOME", str(path))
    monkeypatch.setenv("HERMES_REDIS_URL", valkey_url)
    monkeypatch.setenv("HERMES_CELERY_NAMESPACE", namespace)
    return path


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_command_ends_with_a_traceback(home: Path, arguments: tuple[str, ...]) -> None:
    result = typed(*(one.replace("HOME", str(home)).replace("WORKDIR", str(home / "w"))
                     for one in arguments))  # fmt: skip
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    if result.exit_code and arguments[0] != "doctor":
        assert result.stderr.startswith(("Error: ", "Usage: ")), result.output


def test_up_prints_what_to_do(home: Path) -> None:
    result = typed("up")
    assert result.exit_code == 1
    told = " ".join(result.stderr.split())
    assert told.startswith(f"Error: HERMES_HOME is {home}, ")
    assert told.count(str(home)) == 1
    if home.name == "theirs":
        assert told.endswith("Permission denied; set HERMES_HOME to a directory that you own, or "
                             "become the owner of this one")  # fmt: skip
    else:
        assert told.endswith("; set HERMES_HOME to a directory that you own")


@pytest.mark.parametrize(
    ("given", "told"),
    [("file", "which is a file"), ("file/below/it", "and {file} is a file")],
)
@pytest.mark.parametrize("command", ["up", "list", "status"])
def test_a_home_that_is_a_file_is_called_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, given: str, told: str
) -> None:
    (tmp_path / "file").touch()
    for name in [name for name in os.environ if name.startswith("HERMES_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HERMES_HOME", str(tmp_path / given))
    result = typed(command)
    assert result.exit_code == 1
    assert " ".join(result.stderr.split()) == (
        f"Error: HERMES_HOME is {tmp_path / given}, {told.format(file=tmp_path / 'file')}; set "
        "HERMES_HOME to a directory that you own"
    )


def test_a_state_directory_that_is_a_file_is_called_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_HOME", str(tmp_path))
    state = read_settings({"HERMES_HOME": str(tmp_path)}).state_dir
    state.parent.mkdir()
    state.touch()
    told = " ".join(typed("up").stderr.split())
    assert told.startswith(f"Error: HERMES_HOME is {tmp_path}, and {state} is a file; ")


def test_doctor_reports_the_home_and_makes_its_other_checks(home: Path) -> None:
    result = typed("doctor", "--json")
    found = {row["check"]: row["verdict"] for row in json.loads(result.stdout)}
    assert found["home"] == "fail"
    assert {"server", "disk", "scripts", "agent"} <= set(found)


def test_a_beat_or_worker_does_not_start_with_an_unusable_home(home: Path) -> None:
    with pytest.raises(SettingsError, match="HERMES_HOME is "):
        check_home(read_settings())


def test_a_home_that_does_not_exist_yet_is_accepted(tmp_path: Path) -> None:
    check_home(read_settings({"HERMES_HOME": str(tmp_path / "new")}))
    check_home(read_settings({"HERMES_HOME": str(tmp_path)}))


def test_a_home_with_an_unreadable_env_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(SettingsError, match=r"\.env cannot be used: Is a directory"):
        check_home(read_settings({"HERMES_HOME": str(tmp_path)}))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG])
def test_the_advice_to_become_the_owner_is_for_missing_rights(tmp_path: Path, number: int) -> None:
    settings = read_settings({"HERMES_HOME": str(tmp_path)})
    error = OSError(number, os.strerror(number), str(tmp_path))
    told = str(unusable_home(settings, error))
    assert told.startswith(f"HERMES_HOME is {tmp_path}, which cannot be used: ")
    assert ("become the owner" in told) == (number in (errno.EACCES, errno.EPERM))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_advice_for_a_full_disk_is_to_make_room(tmp_path: Path, number: int) -> None:
    settings = read_settings({"HERMES_HOME": str(tmp_path)})
    error = OSError(number, os.strerror(number))
    assert str(unusable_home(settings, error, path=tmp_path / "up.lock")) == (
        f"HERMES_HOME is {tmp_path}, and {tmp_path / 'up.lock'} cannot be used: "
        f"{os.strerror(number)}; make room on that disk, or set HERMES_HOME to a directory on "
        "another one"
    )


#: A file of this many bytes can hold the lock of `up`, and not the script of its demo.
_LOCK_BYTES = 50


@pytest.mark.parametrize(
    ("most_bytes", "file"),
    [(0, "cron/hermes-celery/up.lock"), (_LOCK_BYTES, "scripts/hello.sh")],
)
def test_up_names_the_file_that_cannot_be_written(
    tmp_path: Path, valkey_url: str, namespace: str, most_bytes: int, file: str
) -> None:
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, {most_bytes}))"
    call = "from hermes_celery.cli import main; main(['up', '--demo'])"
    done = subprocess.run(
        [sys.executable, "-B", "-c", f"import resource; {limit}; {call}"],
        capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": os.environ["PATH"], "HERMES_REDIS_URL": valkey_url,
             "HERMES_HOME": str(tmp_path), "HERMES_CELERY_NAMESPACE": namespace},
    )  # fmt: skip
    assert done.returncode == 1
    told = " ".join(done.stderr.split())
    assert told.startswith(
        f"Error: HERMES_HOME is {tmp_path}, and {tmp_path / file} cannot be used: File too large; "
    )
    # A script that was written in part would be taken for the whole one at the next start.
    assert not (tmp_path / "scripts" / "hello.sh").exists()
