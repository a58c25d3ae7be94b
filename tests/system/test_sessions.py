"""Tests session contexts of concurrent runs under every pool: no run sees another run's session."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from hermes_celery.client import Client
from hermes_celery.core.job import JobRequest, Origin
from hermes_celery.core.run import Run, RunState
from hermes_celery.core.work import TaskCall
from hermes_celery.session import Session, bound, to_header
from hermes_celery.settings import read_settings
from hermes_celery.store import Database
from hermes_celery.wiring.project import Cron
from tests.support import eventually
from tests.system.conftest import Processes, await_worker, script, script_job

pytestmark = pytest.mark.system

_JOBS = 200
_PROJECT = '''
import contextvars, json, os, threading, time
from celery import Celery
from hermes_celery import Cron
from hermes_celery.session import async_delivery_supported, current_session, get_session_env

app = Celery("shop", broker=os.environ["BROKER"])
app.conf.worker_prefetch_multiplier = 1
cron = Cron(app)
ENVIRONMENT = dict(os.environ)
NAMES = ("HERMES_SESSION_PLATFORM", "HERMES_SESSION_CHAT_ID", "HERMES_SESSION_USER_ID",
         "HERMES_CRON_SESSION", "HERMES_CRON_AUTO_DELIVER_CHAT_ID", "HERMES_UI_SESSION_ID")

def read():
    return [get_session_env(name, "unset") for name in NAMES]

def changed():
    """What differs in the environment, but for what Celery itself writes into it."""
    differing = {name for name in {*os.environ, *ENVIRONMENT}
                 if os.environ.get(name) != ENVIRONMENT.get(name)}
    return {name for name in differing if not name.startswith(("CELERY", "_MP"))}

@app.task
def look(before_was=None):
    first = read()
    seen = []
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: seen.append(context.run(read)))
    thread.start()
    time.sleep(0.02)
    thread.join()
    note.apply_async(args=(first[1],))
    return [first, seen[0], read(), sorted(changed()), async_delivery_supported()]

@app.task(bind=True)
def note(self, chat_id):
    inherited = current_session().run_id != self.request.id
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(json.dumps([chat_id, *read(), inherited]) + "\\n")

@app.task
def bare():
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(json.dumps(["bare", *read(), current_session() is None]) + "\\n")
'''


@pytest.fixture
def project(processes: Processes, tmp_path: Path, valkey_url: str) -> Client:
    """Return a client of a Celery project."""
    (tmp_path / "shop.py").write_text(_PROJECT, encoding="utf-8")
    processes.environment |= {
        "BROKER": valkey_url.replace("unix://", "redis+socket://"),
        "PYTHONPATH": str(tmp_path),
        "NOTES": str(tmp_path / "notes"),
    }
    del processes.environment["HERMES_REDIS_URL"]
    from celery import Celery

    app = Celery("shop", broker=processes.environment["BROKER"], set_as_current=False)
    app.conf.task_default_queue = processes.environment["HERMES_CELERY_NAMESPACE"]
    settings = read_settings({**processes.environment, "HERMES_REDIS_URL": valkey_url})
    return Cron(app, settings=settings).client


def notes(tmp_path: Path) -> list[list[object]]:
    path = tmp_path / "notes"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def worker(processes: Processes, *arguments: str) -> None:
    namespace = processes.environment["HERMES_CELERY_NAMESPACE"]
    processes.start(
        [
            *(sys.executable, "-m", "celery", "-A", "shop", "worker"),
            *("-Q", f"{namespace},celery", *arguments),
        ],
        HERMES_SESSION_PLATFORM="leaked",
    )


def ended(cron: Client, run_id: str) -> Run:
    eventually(lambda: cron.runs.get(run_id).state.is_final, seconds=60, what=f"end of {run_id}")
    return cron.runs.get(run_id)


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_two_hundred_runs_eight_at_a_time_see_only_their_own_session(
    processes: Processes, valkey: Database, project: Client, tmp_path: Path, pool: str
) -> None:
    worker(processes, "--pool", pool, "--concurrency", "8", "-l", "WARNING")
    await_worker(valkey)
    expected = {}
    for number in range(_JOBS):
        origin = Origin(
            platform="telegram", chat_id=str(number), user_id=f"u{number}", ui_session_id="ui"
        )
        job = project.add(
            JobRequest(
                schedule="every 1h",
                name=f"look {number}",
                task=TaskCall(name="shop.look"),
                origin=origin if number % 4 else None,
                session="none" if number % 4 == 1 else None,
            )
        )
        chat, user, ui = (str(number), f"u{number}", "ui") if number % 4 > 1 else ("", "", "")
        target = str(number) if number % 4 else ""
        platform = "telegram" if number % 4 > 1 else ""
        expected[project.run(job.id)] = [platform, chat, user, "1", target, ui]
    for run_id, read in expected.items():
        run = ended(project, run_id)
        assert (run.state, run.error) == (RunState.SUCCEEDED, None)
        assert json.loads(project.runs.output(run_id)) == [read, read, read, [], False]
    children = eventually(
        lambda: found if len(found := notes(tmp_path)) == _JOBS else [],
        seconds=30,
        what="the tasks published by the runs",
    )
    inherited = [[read[1], *read, True] for read in expected.values()]
    assert sorted(map(str, children)) == sorted(map(str, inherited))


def test_the_session_is_removed_after_its_run(
    processes: Processes, valkey: Database, project: Client, tmp_path: Path
) -> None:
    worker(processes, "--pool", "solo")
    await_worker(valkey)
    request = JobRequest(
        schedule="every 1h", task=TaskCall(name="shop.look"), origin=Origin(platform="discord")
    )
    ended(project, project.run(project.add(request).id))
    from celery import Celery

    Celery("shop", broker=processes.environment["BROKER"], set_as_current=False).send_task(
        "shop.bare"
    )
    found = eventually(
        lambda: [n for n in notes(tmp_path) if n[0] == "bare"], what="the task without a session"
    )
    assert found == [["bare", "leaked", *["unset"] * 5, True]]


def test_a_message_published_in_a_session_carries_the_session() -> None:
    from hermes_celery.celery_app.continued_runs import inherit

    headers: dict[str, object] = {}
    inherit(headers=headers)
    assert headers == {}
    session = Session(origin=Origin(platform="telegram"), run_id="r")
    with bound(session):
        inherit(headers=headers)
    assert headers == {"hermes": to_header(session)}
    with bound(Session()):
        inherit(headers=headers)
    assert headers == {"hermes": to_header(session)}


def test_each_run_reads_the_env_files_of_its_own_profile(
    processes: Processes, valkey: Database, cron: Client, home: Path
) -> None:
    (home / ".env").write_text("WHO=home\nSHARED=yes\nMY_API_KEY=sk-hidden-away-123456\n")
    for name in ("ann", "bob"):
        (home / "profiles" / name).mkdir(parents=True)
        (home / "profiles" / name / ".env").write_text(f"WHO={name}\n")
    script(home, "who.sh", 'echo "$WHO $SHARED ${MY_API_KEY:-none}"')
    processes.celery("worker", "--pool", "threads")
    await_worker(valkey)
    expected = {}
    for profile, who in (("ann", "ann"), ("bob", "bob"), ("", "home"), ("gone", "home")):
        request = script_job("every 1h", "who.sh")
        origin = Origin(platform="telegram", profile=profile)
        fields = {name: getattr(request, name) for name in request.__struct_fields__}
        job = cron.add(JobRequest(**{**fields, "origin": origin}))
        expected[cron.run(job.id)] = f"{who} yes none\n"
    for run_id, output in expected.items():
        ended(cron, run_id)
        assert cron.runs.output(run_id).decode() == output
    assert "WHO" not in os.environ
