"""Tests a Celery project whose tasks are scheduled by its jobs and recorded as runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from celery import Celery

from hermes_celery.client import Client
from hermes_celery.core.job import JobRequest, JobState
from hermes_celery.core.run import DeliveryState, Run, RunState
from hermes_celery.core.task_call import live_call
from hermes_celery.core.work import TaskCall
from hermes_celery.errors import JobError
from hermes_celery.interop.cron_attributes import REFUSED
from hermes_celery.scheduling.declared_jobs import managed_id
from hermes_celery.settings import read_settings
from hermes_celery.store import Database, Letters
from hermes_celery.wiring.project import Cron
from tests.bad_messages import SELECTION, corpus
from tests.support import eventually
from tests.system.conftest import Processes, await_leader, await_worker

pytestmark = pytest.mark.system

_PROJECT = """
import os, time
from datetime import timedelta
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.schedules import crontab
from hermes_celery import Cron

app = Celery("shop", broker=os.environ["BROKER"])
app.conf.task_default_queue = os.environ["HERMES_CELERY_NAMESPACE"]
app.conf.beat_schedule = {BEAT_SCHEDULE}
app.conf.task_routes = {"shop.far": {"queue": os.environ["HERMES_CELERY_NAMESPACE"] + "-far"}}
cron = Cron(app)
DECLARED

def note(word):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(word + "\\n")

@app.task(bind=True)
def report(self, day, *, full=False):
    note(f"report {day} {full} {self.request.id}")
    return {"day": day, "full": full}

@app.task
def broken():
    note("broken")
    raise ValueError("no paper, token=ghp_A1b2C3d4E5f6G7h8I9j0")

@app.task
def far():
    note("far")

@app.task(bind=True, max_retries=3)
def again(self):
    note(f"again {self.request.retries}")
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return "third time"

@app.task
def slow():
    note("slow")
    for _ in range(6000):
        time.sleep(0.01)
"""


@pytest.fixture
def shop(processes: Processes, tmp_path: Path, valkey_url: str) -> Client:
    """Write the project `shop.py` and return a client of it."""
    write(tmp_path)
    namespace = processes.environment["HERMES_CELERY_NAMESPACE"]
    processes.environment |= {
        "BROKER": valkey_url.replace("unix://", "redis+socket://"),
        "PYTHONPATH": str(tmp_path),
        "NOTES": str(tmp_path / "notes"),
    }
    del processes.environment["HERMES_REDIS_URL"]
    app = Celery("shop", broker=processes.environment["BROKER"], set_as_current=False)
    app.conf.task_default_queue = namespace
    settings = read_settings({**processes.environment, "HERMES_REDIS_URL": valkey_url})
    return Cron(app, settings=settings).client


def write(place: Path, *, declared: str = "", beat_schedule: str = "") -> None:
    """Write the project's module, replacing an earlier one."""
    text = _PROJECT.replace("DECLARED", declared).replace("{BEAT_SCHEDULE}", f"{{{beat_schedule}}}")
    (place / "shop.py").write_text(text, encoding="utf-8")


def worker(processes: Processes, *arguments: str) -> None:
    celery(processes, "worker", "--concurrency", "4", *arguments)


def celery(processes: Processes, *arguments: str) -> object:
    command = [sys.executable, "-B", "-m", "celery", "-A", "shop", *arguments]
    return processes.start(command)


def beat(processes: Processes) -> None:
    celery(processes, "beat", "-S", "hermes_celery.beat:CronScheduler")


def run_task(cron: Client, task: str, **fields: object) -> Run:
    call = TaskCall(name=f"shop.{task}", **fields)  # type: ignore[arg-type]
    job = cron.add(JobRequest(schedule="every 1h", name=task, task=call))
    return ended(cron, cron.run(job.id))


def ended(cron: Client, run_id: str) -> Run:
    eventually(lambda: cron.runs.get(run_id).state.is_final, seconds=40, what=f"end of {run_id}")
    return cron.runs.get(run_id)


def notes(place: Path) -> list[str]:
    path = place / "notes"
    return path.read_text().splitlines() if path.exists() else []


def test_a_projects_declared_jobs_run_and_are_recorded(
    processes: Processes, valkey: Database, shop: Client, tmp_path: Path
) -> None:
    write(
        tmp_path,
        declared='cron.add("nightly", "0 2 * * *", task="shop.report", args=["now"],'
        ' timezone="Europe/Berlin")\ncron.add("often", "every 1s", task="shop.report", args=[1])',
        beat_schedule='"old": {"task": "shop.far", "schedule": crontab(minute=0, hour="*/2")},'
        '"period": {"task": "shop.report", "schedule": timedelta(minutes=5), "args": (7,)},'
        '"seconds": {"task": "shop.report", "schedule": 30.0, "options": {"queue": "q"}},'
        '"both": {"task": "shop.far", "schedule": crontab(day_of_month=1, day_of_week=1)}',
    )
    by_hand = shop.add(JobRequest(schedule="every 1h", prompt="mine"))
    worker(processes)
    beat(processes)
    await_worker(valkey)
    await_leader(valkey)
    (run, *_) = eventually(
        lambda: shop.latest_runs("often", state=RunState.SUCCEEDED, limit=1), what="a run"
    )
    assert json.loads(shop.runs.output(run.id)) == {"day": 1, "full": False}
    assert f"report 1 False {run.id}" in notes(tmp_path)
    found = {job.name: (job.spec.schedule, job.spec.timezone) for job in shop.all_jobs()}
    assert found == {
        "both": ("* * 1 * +1", "UTC"),
        "mine": (by_hand.spec.schedule, "UTC"),
        "nightly": ("0 2 * * *", "Europe/Berlin"),
        "often": ("every 1s", "UTC"),
        "old": ("0 */2 * * *", "UTC"),
        "period": ("every 5m", "UTC"),
        "seconds": ("every 30s", "UTC"),
    }
    # The command line does not know the project's routes, but the leader does.
    url = processes.environment["BROKER"].replace("redis+socket://", "unix://")
    processes.environment["HERMES_REDIS_URL"] = url
    by_cli = processes.hermes("run", "often", "--wait")
    assert (by_cli.returncode, json.loads(by_cli.stdout)) == (0, {"day": 1, "full": False})
    assert shop.show("seconds").spec.queue == "q"
    assert shop.show("nightly").id == managed_id("project:shop", "nightly")


def test_declared_jobs_follow_the_configuration_and_stay_paused(
    processes: Processes, valkey: Database, shop: Client, tmp_path: Path
) -> None:
    write(
        tmp_path,
        declared='cron.add("a", "every 1h", task="shop.far")\n'
        'cron.add("b", "every 1h", task="shop.far")\ncron.add("c", "every 2h", task="shop.far")',
    )
    first = processes.start(
        [sys.executable, "-B", "-m", "celery", "-A", "shop", "beat",
         "-S", "hermes_celery.beat:CronScheduler"]
    )  # fmt: skip
    eventually(lambda: len(list(shop.all_jobs())) == 3, what="three jobs")
    before = {job.name: job for job in shop.all_jobs()}
    shop.pause("c")
    first.terminate()
    assert first.wait(20) == 0
    write(
        tmp_path,
        declared='cron.add("a", "every 1h", task="shop.far")\n'
        'cron.add("c", "every 3h", task="shop.report", args=[1])',
    )
    beat(processes)
    eventually(lambda: len(list(shop.all_jobs())) == 2, what="the removal of one job")
    after = {job.name: job for job in shop.all_jobs()}
    assert after["a"] == before["a"]
    assert after["c"].state is JobState.PAUSED
    assert after["c"].spec.task == TaskCall(name="shop.report", args=[1])
    assert after["c"].spec.schedule == "every 3h"


def test_each_task_is_executed_once_and_its_outcome_is_recorded(
    processes: Processes, valkey: Database, shop: Client, tmp_path: Path
) -> None:
    namespace = processes.environment["HERMES_CELERY_NAMESPACE"]
    job = shop.add(
        JobRequest(
            schedule="every 1h", task=TaskCall(name="shop.report", args=[2], kwargs={"full": True})
        )
    )
    run_id = shop.run(job.id)
    for _ in range(3):
        valkey.call("LPUSH", namespace, valkey.call("LINDEX", namespace, 0))
    worker(processes, "-Q", f"{namespace},{namespace}-far")
    await_worker(valkey)
    run = ended(shop, run_id)
    assert (run.state, run.error) == (RunState.SUCCEEDED, None)
    failed = run_task(shop, "broken")
    assert (failed.state, failed.error) == (RunState.FAILED, "ValueError: no paper, token=***")
    trace = shop.runs.stderr(failed.id).decode()
    assert "raise ValueError" in trace
    assert "ghp_" not in trace
    routed = run_task(shop, "far")
    assert (routed.state, routed.delivery) == (RunState.SUCCEEDED, DeliveryState.SILENT)
    retried = run_task(shop, "again")
    assert (retried.state, retried.error) == (RunState.SUCCEEDED, None)
    assert shop.runs.output(retried.id) == b"third time"
    eventually(lambda: valkey.call("LLEN", namespace) == 0, what="an empty queue")
    said = notes(tmp_path)
    assert said.count(f"report 2 True {run_id}") == 1
    assert [word for word in said if word.startswith("again")] == [f"again {n}" for n in range(3)]
    unknown = JobRequest(schedule="every 1h", task=TaskCall(name="shop.far", args=[[{1: 2}]]))
    stored = shop.add(unknown).spec.task
    assert stored is not None
    assert (stored.args, live_call(stored).args) == ([[{"1": 2}]], [[{1: 2}]])


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_running_task_is_cancelled_under_every_pool(
    processes: Processes, valkey: Database, shop: Client, tmp_path: Path, pool: str
) -> None:
    worker(processes, "--pool", pool)
    await_worker(valkey)
    job = shop.add(JobRequest(schedule="every 1h", task=TaskCall(name="shop.slow")))
    run_id = shop.run(job.id)
    eventually(lambda: "slow" in notes(tmp_path), what="the task")
    assert shop.cancel(run_id, reason="enough") == "asked"
    run = ended(shop, run_id)
    assert (run.state, run.reason) == (RunState.CANCELLED, "enough")
    assert run_task(shop, "report", args=[3]).state is RunState.SUCCEEDED


def test_a_projects_worker_survives_malformed_messages(
    processes: Processes, valkey: Database, shop: Client, tmp_path: Path
) -> None:
    process = processes.start([sys.executable, "-B", "-m", "celery", "-A", "shop", "worker"])
    await_worker(valkey)
    for name in SELECTION:
        valkey.call("LPUSH", processes.environment["HERMES_CELERY_NAMESPACE"], corpus()[name])
    assert run_task(shop, "report", args=[3]).state is RunState.SUCCEEDED
    assert process.poll() is None
    assert Letters(valkey).total() == len(SELECTION)


def test_an_invalid_declaration_raises_at_its_line() -> None:
    cron = Cron(Celery("x", broker="redis://nowhere", set_as_current=False))
    cron.add("a", "every 1h", task="t")
    with pytest.raises(JobError, match="two jobs named 'a'"):
        cron.add("a", "every 2h", task="t")
    cron.add("b", "every 2h")
    cron.add("c", "60 * * * *", task="t")
    cron.add("d", 0.05, task="t")
    with pytest.raises(JobError, match="two jobs named 'b'"):
        cron.add("b", "every 2h", task="t")
    refused = getattr(cron.app, REFUSED)
    assert "nothing to run" in refused["b"]
    assert "60" in refused["c"]
    assert "0.05 s is too short; the shortest is 0.1 s" in refused["d"]
