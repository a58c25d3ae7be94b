"""Tests beat, worker and doctor under a Redis user with the documented rules, or one less."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from hermes_celery.client import Client
from hermes_celery.core.run import RunState
from hermes_celery.store import Database, connect
from hermes_celery.store.permissions import COMMANDS
from tests.acl import documented_rules, user
from tests.support import eventually
from tests.system.conftest import Processes, await_leader, await_worker, script, script_job

pytestmark = pytest.mark.system

#: Commands that redis-py sends by itself when it connects; no rule forbids them.
_CONNECTING = {"HELLO", "AUTH", "CLIENT", "SELECT"}


class Spy:
    """Collects every command that a server runs."""

    def __init__(self, url: str) -> None:
        self.commands: set[str] = set()
        self._ended = Event()
        self._client: Any = connect(url)
        self._ready = Event()
        self._thread = Thread(target=self._listen, daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    def _listen(self) -> None:
        with self._client.monitor() as monitor:
            self._ready.set()
            while not self._ended.is_set():
                words = monitor.next_command()["command"].upper().split(" ")
                has_subcommand = words[0] in ("SCRIPT", "PUBSUB")
                self.commands.add(" ".join(words[:2]) if has_subcommand else words[0])

    def end(self, database: Database) -> set[str]:
        """Stop listening and return the commands; a PING wakes the listener."""
        self._ended.set()
        database.call("PING")
        self._thread.join(20)
        self._client.close()
        return self.commands


@pytest.fixture
def spy(valkey_url: str, valkey: Database) -> Iterator[Spy]:
    """Collect the commands that the server runs during the test."""
    spy = Spy(valkey_url)
    yield spy
    spy.end(valkey)


def test_the_documented_rules_are_enough_and_list_every_command(
    processes: Processes, valkey: Database, valkey_url: str, cron: Client, home: Path, spy: Spy
) -> None:
    with user(valkey_url, documented_rules(valkey.keys.namespace)) as url:
        processes.environment["HERMES_REDIS_URL"] = url
        beat, worker = processes.celery("beat"), processes.celery("worker")
        await_leader(valkey)
        await_worker(valkey)
        script(home, "hi.sh", "echo hi")
        script(home, "long.sh", "sleep 100")
        assert processes.hermes(
            "add", "every 1s", "--script", "hi.sh", "--no-agent", "--deliver", "file://hi.txt"
        ).returncode == 0  # fmt: skip
        run_id = cron.run(cron.add(script_job("every 1h", "long.sh")).id)
        eventually(lambda: cron.runs.get(run_id).state is RunState.RUNNING, what="the long run")
        assert processes.hermes("cancel", run_id).returncode == 0
        eventually(
            lambda: cron.runs.get(run_id).state is RunState.CANCELLED, what="the cancelled run"
        )
        eventually(lambda: cron.latest_runs(state=RunState.SUCCEEDED), what="a scheduled run")
        eventually(lambda: list((home / "cron" / "output").rglob("hi.txt")), what="a delivery")
        doctor = processes.hermes("doctor")
        assert doctor.returncode == 0, doctor.stdout
        ping = processes.celery("inspect", "ping")
        assert ping.wait(30) == 0
        for command in ("list", "runs", "incidents", "status"):
            assert processes.hermes(command).returncode == 0
        for process in (worker, beat):
            process.terminate()
            assert process.wait(30) == 0
            said = processes.log(process)
            assert "NOPERM" not in said
            assert "no permissions" not in said
            assert "Traceback" not in said
        # The test's own commands are included; redis-py's connection commands need no rule.
        used = spy.end(valkey) - _CONNECTING - {"ACL", "MONITOR"}
    assert used <= COMMANDS
    assert len(used) > 40


@pytest.mark.parametrize("command", ["worker", "beat"])
@pytest.mark.parametrize("missing", ["+hvals", "+evalsha", "+brpop", "~_kombu.binding*"])
def test_a_process_whose_user_lacks_a_permission_names_it_and_exits(
    processes: Processes, valkey: Database, valkey_url: str, command: str, missing: str
) -> None:
    rules = [rule for rule in documented_rules(valkey.keys.namespace) if rule != missing]
    with user(valkey_url, rules) as url:
        process = processes.celery(command, HERMES_REDIS_URL=url)
        assert process.wait(30) == 1
        said = processes.log(process)
        processes.environment["HERMES_REDIS_URL"] = url
        doctor = processes.hermes("doctor")
    (sentence,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert sentence.endswith(missing)
    assert "Traceback" not in said
    assert doctor.returncode == 1
    (line,) = [line for line in doctor.stdout.splitlines() if line.startswith("fail  server")]
    assert line.endswith(missing)
    assert valkey.call("KEYS", f"{valkey.keys.prefix}*") == []
