"""Tests deliveries by real workers to real HTTP and SMTP receivers: sending, retries, incidents."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hermes_celery.client import Client
from hermes_celery.core.run import DeliveryState, RunState
from hermes_celery.store import Database
from tests.receivers import HttpReceiver, http_receiver, smtp_receiver
from tests.support import eventually, replaced
from tests.system.conftest import Processes, await_leader, await_worker, script, script_job

pytestmark = pytest.mark.system


@pytest.fixture
def http() -> Iterator[HttpReceiver]:
    """Yield a web server that receives messages."""
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture
def targets_toml(home: Path) -> Path:
    """Return the path of targets.toml; its directory exists."""
    path = home / "cron" / "hermes-celery" / "targets.toml"
    path.parent.mkdir(parents=True)
    return path


def delivered(cron: Client, run_id: str, state: DeliveryState = DeliveryState.DELIVERED) -> None:
    eventually(
        lambda: cron.runs.get(run_id).delivery is state, seconds=40, what=f"{run_id} {state.value}"
    )


def json_of(processes: Processes, *arguments: str) -> Any:
    done = processes.hermes(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_output_and_failures_are_delivered_and_commands_show_it(
    processes: Processes,
    valkey: Database,
    cron: Client,
    home: Path,
    http: HttpReceiver,
    targets_toml: Path,
) -> None:
    processes.celery("worker", HERMES_CELERY_WRAP="off")
    await_worker(valkey)
    with smtp_receiver() as smtp:
        targets_toml.write_text(f'ops = "{http.url}"\nmail = "{smtp.url}"\n', encoding="utf-8")
        script(home, "hi.sh", "echo hello")
        run_id = cron.run(
            cron.add(replaced(script_job("every 1h", "hi.sh"), deliver="ops,mail")).id
        )
        delivered(cron, run_id)
        assert http.messages == ["hello"]
        assert len(smtp.mails) == 1
    parts = json_of(processes, "logs", run_id)["deliveries"]
    assert [(part["target"], part["state"]) for part in parts] == [
        ("ops", "delivered"), ("mail", "delivered"),
    ]  # fmt: skip

    script(home, "bad.sh", "echo disk full >&2; exit 3")
    job = cron.add(replaced(script_job("every 1h", "bad.sh"), failure_deliver="ops"))
    failed = cron.run(job.id)
    delivered(cron, failed)
    assert "disk full" in http.messages[-1]
    assert f"→ hermes-celery logs {failed}" in http.messages[-1]
    (incident,) = json_of(processes, "incidents")
    assert (incident["count"], incident["job_name"]) == (1, "bad.sh")
    assert processes.hermes("incidents", "ack", incident["id"]).returncode == 0
    assert json_of(processes, "incidents")[0]["acked_at"] is not None
    again = processes.hermes("incidents", "ack", incident["id"])
    assert again.returncode == 0
    assert again.stdout == f"{incident['id']} was acknowledged before; nothing was changed\n"
    unknown = processes.hermes("incidents", "ack", "no-such" * 1000)
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("Error: no open incident has the id 'no-such")
    assert len(unknown.stderr) < 250


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_other_pools_deliver_too(
    processes: Processes,
    valkey: Database,
    cron: Client,
    home: Path,
    http: HttpReceiver,
    pool: str,
) -> None:
    processes.celery("worker", "--pool", pool, HERMES_CELERY_WRAP="off")
    await_worker(valkey)
    script(home, "hi.sh", "echo hello")
    job = cron.add(replaced(script_job("every 1h", "hi.sh"), deliver=http.url))
    runs = [cron.run(job.id) for _ in range(4)]
    for run_id in runs:
        delivered(cron, run_id)
    assert http.messages == ["hello"] * 4


def test_a_failed_delivery_is_retried_and_can_be_sent_again_by_hand(
    processes: Processes, valkey: Database, cron: Client, home: Path, http: HttpReceiver
) -> None:
    environment = {"HERMES_CELERY_DELIVERY_WAIT": "0.5", "HERMES_CELERY_WRAP": "off"}
    processes.celery("worker", **environment)
    processes.celery("beat", **environment)
    await_worker(valkey)
    await_leader(valkey)
    script(home, "hi.sh", "echo hello")
    http.answers = [500, 429]
    job = cron.add(replaced(script_job("every 1h", "hi.sh"), deliver=http.url))
    run_id = cron.run(job.id)
    delivered(cron, run_id)
    assert http.messages == ["hello"] * 3
    assert len(cron.latest_runs(job.id)) == 1
    assert cron.show(job.id).last_status == "ok"

    script(home, "hi.sh", "echo unreachable")
    cron.edit(job.id, {"deliver": "telegram"})
    lost = cron.run(job.id)
    delivered(cron, lost, DeliveryState.FAILED)
    shown = json_of(processes, "show", job.id)
    assert (shown["last_status"], shown["last_delivery_error"]) == (
        "delivery_failed",
        "no delivery target resolved for deliver=telegram",
    )
    assert cron.runs.get(lost).state is RunState.SUCCEEDED
    assert "(not delivered)" in processes.hermes("runs", job.id).stdout
    assert "delivery_failed" in processes.hermes("list").stdout
    cron.edit(job.id, {"deliver": http.url})
    again = processes.hermes("redeliver", lost)
    assert again.returncode == 0, again.stderr
    delivered(cron, lost)
    assert http.messages[-1] == "unreachable"
    assert json_of(processes, "show", job.id)["last_status"] == "ok"


def test_a_worker_killed_between_sending_and_recording_makes_at_most_one_duplicate(
    processes: Processes, valkey: Database, cron: Client, home: Path, http: HttpReceiver
) -> None:
    environment = {"HERMES_CELERY_DELIVERY_TIMEOUT": "3", "HERMES_CELERY_WRAP": "off"}
    worker = processes.celery("worker", **environment)
    await_worker(valkey)
    script(home, "hi.sh", "echo hello")
    http.answers = [None]
    run_id = cron.run(cron.add(replaced(script_job("every 1h", "hi.sh"), deliver=http.url)).id)
    assert http.got_one.wait(20)
    # The receiver has the message, but the worker has not recorded that.
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait(40)
    http.release.set()
    assert cron.runs.get(run_id).delivery is DeliveryState.PENDING
    processes.celery("worker", "-B", **environment)
    delivered(cron, run_id)
    assert http.messages == ["hello", "hello"]
    assert len(cron.latest_runs()) == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--deliver", "telegrm"], "neither a platform nor a name in targets.toml"),
        (["--deliver", "nosuch://tok-en-secret"], "nosuch://*** is not a URL that apprise can use"),
        (["--failure-deliver", "bogus:1"], "unknown platform 'bogus'"),
        (["--template", "{% if %}"], "the template is not valid: line 1"),
        (["--ping", "ftp://tok-en-secret/x"], "the ping URL must be an http(s) URL"),
        (["--deliver", "file://../x"], "does not name a file under"),
    ],
)
def test_an_impossible_target_is_refused_when_the_job_is_added(
    processes: Processes, home: Path, options: list[str], why: str
) -> None:
    script(home, "hi.sh", "echo hello")
    add = ["add", "every 1h", "--script", "hi.sh", "--no-agent"]
    refused = processes.hermes(*add, *options)
    assert refused.returncode == 1
    assert why in refused.stderr
    assert "tok-en-secret" not in refused.stderr
    assert json_of(processes, "list") == []


def test_a_url_with_a_secret_causes_a_warning_and_is_masked_everywhere(
    processes: Processes, home: Path
) -> None:
    script(home, "hi.sh", "echo hello")
    made = processes.hermes(
        "add", "every 1h", "--script", "hi.sh", "--no-agent", "--name", "n", "--json",
        "--deliver", "json://user:tok-en-secret@127.0.0.1/x",
        "--ping", "https://hc.example/tok-en-secret",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    shown = [processes.hermes(*words) for words in (["list"], ["list", "--json"], ["show", "n"],
                                                    ["show", "n", "--json"])]  # fmt: skip
    for done in (made, *shown):
        assert done.returncode == 0, done.stderr
        assert "tok-en-secret" not in done.stdout + done.stderr
    assert "json://***" in made.stdout


@pytest.mark.slow
def test_a_beat_reports_waiting_work_without_any_worker(
    processes: Processes, valkey: Database, cron: Client, home: Path, http: HttpReceiver
) -> None:
    script(home, "hi.sh", "echo hello")
    cron.run(cron.add(script_job("every 1h", "hi.sh")).id)
    processes.celery("beat", HERMES_CELERY_ALERTS=http.url, HERMES_CELERY_WRAP="off")
    await_leader(valkey)
    eventually(
        lambda: any("there is no worker" in message for message in http.messages),
        seconds=60,
        what="the alert",
    )
    (incident,) = json_of(processes, "incidents")
    assert incident["kind"] == "workers"
