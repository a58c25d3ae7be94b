"""Tests that Celery's broker variables cannot point a worker or beat at another server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hermes_celery.store import Database
from tests.support import one_spaced
from tests.system.conftest import Processes, await_leader, await_worker

pytestmark = pytest.mark.system

VARIABLES = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
_PROJECT = """
import os
from celery import Celery
from hermes_celery import Cron
app = Celery("shop", broker=os.environ["BROKER"])
app.conf.task_default_queue = os.environ["HERMES_CELERY_NAMESPACE"]
Cron(app)
"""


def refusal(processes: Processes, process: subprocess.Popen[bytes]) -> str:
    """Return the single error line with which a process exited."""
    assert process.wait(30) == 1
    said = processes.log(process)
    assert "Traceback" not in said
    assert said.count("Error: ") == 1
    return next(line for line in said.splitlines() if line.startswith("Error: "))


def elsewhere(url: str) -> str:
    """Return kombu's URL of another database of the same server."""
    return url.replace("unix://", "redis+socket://") + "?virtual_host=7"


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("command", [("worker",), ("beat",), ("worker", "-B")], ids="".join)
def test_a_process_refuses_to_start_if_a_variable_names_another_database(
    processes: Processes, valkey: Database, valkey_url: str, command: tuple[str, ...], name: str
) -> None:
    started = processes.celery(*command, **{name: elsewhere(valkey_url)})
    said = refusal(processes, started)
    assert f"{name} means {valkey_url}?db=7" in said
    assert f"unset {name}" in said
    assert valkey.call("KEYS", f"{valkey.keys.prefix}*") == []


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_the_broker_option_of_the_command_line_is_checked_too(
    processes: Processes, valkey_url: str, command: str
) -> None:
    start = [sys.executable, "-m", "celery", "-A", "hermes_celery", "-b", elsewhere(valkey_url)]
    said = refusal(processes, processes.start([*start, command]))
    assert "unset CELERY_BROKER_URL" in said


def test_up_refuses_to_start_if_a_variable_names_another_broker(
    processes: Processes, home: Path
) -> None:
    del processes.environment["HERMES_REDIS_URL"]
    processes.environment["CELERY_BROKER_URL"] = "redis://:secret@localhost:6379/0"
    told = processes.hermes("up")
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.count("\n") == 1
    assert "CELERY_BROKER_URL means redis://:***@localhost:6379/0" in told.stderr
    assert not (home / "cron" / "hermes-celery" / "valkey.sock").exists()
    doctor = processes.hermes("doctor")
    assert doctor.returncode == 1
    assert "fail broker CELERY_BROKER_URL means" in one_spaced(doctor.stdout)


def test_a_process_starts_if_a_variable_names_the_same_server_in_another_notation(
    processes: Processes, valkey: Database, valkey_url: str
) -> None:
    same = valkey_url.replace("unix://", "redis+socket://") + "?virtual_host=0"
    for name in VARIABLES:
        processes.environment[name] = same
    processes.celery("worker")
    processes.celery("beat")
    await_worker(valkey)
    await_leader(valkey)


@pytest.fixture
def shop(processes: Processes, tmp_path: Path, valkey_url: str) -> list[str]:
    """Return the first words of a project's Celery commands; HERMES_REDIS_URL is unset."""
    (tmp_path / "shop.py").write_text(_PROJECT, encoding="utf-8")
    processes.environment |= {"BROKER": "redis://nowhere.invalid/0", "PYTHONPATH": str(tmp_path)}
    del processes.environment["HERMES_REDIS_URL"]
    return [sys.executable, "-B", "-m", "celery", "-A", "shop"]


def test_a_project_follows_the_broker_of_the_command_line(
    processes: Processes, valkey: Database, valkey_url: str, shop: list[str]
) -> None:
    follow = [*shop, "-b", valkey_url.replace("unix://", "redis+socket://")]
    processes.start([*follow, "worker"])
    processes.start([*follow, "beat", "-S", "hermes_celery.beat:CronScheduler"])
    await_worker(valkey)
    await_leader(valkey)


@pytest.mark.parametrize(
    "command", [("worker",), ("beat", "-S", "hermes_celery.beat:CronScheduler")], ids="".join
)
def test_a_project_refuses_to_start_if_a_variable_differs_from_its_broker(
    processes: Processes, valkey_url: str, shop: list[str], command: tuple[str, ...]
) -> None:
    broker = {"CELERY_BROKER_URL": valkey_url.replace("unix://", "redis+socket://")}
    other = {"HERMES_REDIS_URL": f"{valkey_url}?db=7"}
    said = refusal(processes, processes.start([*shop, *command], **broker, **other))
    assert "unset HERMES_REDIS_URL to use the broker" in said
    read = {"CELERY_BROKER_READ_URL": elsewhere(valkey_url)}
    said = refusal(processes, processes.start([*shop, *command], **broker, **read))
    assert "CELERY_BROKER_READ_URL means" in said


def test_a_project_with_an_unusable_broker_gets_an_error_of_one_sentence(
    processes: Processes, shop: list[str]
) -> None:
    """The URL is checked before Celery's banner or transport raises a traceback."""
    beat = ("beat", "-S", "hermes_celery.beat:CronScheduler")
    brokers = (
        "amqp://guest:s3cret@localhost//", "sqs://key:s3cret@", "rediscluster://localhost/0",
        "redis://localhost/0?foo=bar",
    )  # fmt: skip
    started = [
        processes.start([*shop, *command], BROKER=broker)
        for broker in brokers
        for command in (("worker",), beat)
    ]
    for process in started:
        said = refusal(processes, process)
        assert "broker_url" in said
        assert "s3cret" not in processes.log(process)
        assert "HERMES_REDIS_URL" not in said
    processes.environment["BROKER"] = brokers[1]
    told = processes.hermes("-A", "shop", "list")
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (1, "", 1)
    assert "sqs://key:***@" in told.stderr
