"""Advised commands repeat the app and the namespace of the command that was typed."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from hermes_celery.cli import main
from hermes_celery.cli.scope import Scope, about, with_scope
from hermes_celery.core.declared import Declaration
from hermes_celery.observe.checks.workers_and_queues import queue_findings, worker_finding
from hermes_celery.observe.figures import read_status
from hermes_celery.store import Database, Declarations, Formats, worker_app
from hermes_celery.store.queue_health import LivingWorkers
from hermes_celery.store.worker_app import beat_command, worker_command
from tests.support import replaced
from tests.unit.observe.checks.test_workers_and_queues import look, state_of, worker

_APP = """
from celery import Celery
from hermes_celery import Cron

app = Celery("adviceshop", broker={broker!r}, set_as_current=False)
Cron(app)

@app.task(name="shop.good", shared=False)
def good(number):
    return number
"""


@pytest.fixture
def module(tmp_path: Path, valkey_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a project's module for `-A`; only its broker names a server."""
    broker = valkey_url.replace("unix://", "redis+socket://")
    name = f"advice_{namespace.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(_APP.format(broker=broker), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HERMES_HOME", str(tmp_path))
    monkeypatch.setenv("HERMES_CELERY_NAMESPACE", namespace)
    monkeypatch.delenv("HERMES_REDIS_URL", raising=False)
    return name


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def texts_for(app: str) -> tuple[str, str]:
    who = LivingWorkers(names=["w"], signs={"w": worker(queue="other")})
    (finding,) = queue_findings(replaced(state_of(who, look(who)), app=app))
    nobody = replaced(
        state_of(LivingWorkers(names=[], signs={}), look(LivingWorkers(names=[], signs={}))),
        app=app,
    )
    return finding.text, worker_finding(nobody).text


def test_findings_advise_a_worker_of_the_known_app() -> None:
    assert [text.partition("start ")[2] for text in texts_for("proj")] == [
        "`celery -A proj worker -Q q`", "`celery -A proj worker`",
    ]  # fmt: skip
    assert [text.partition("start ")[2] for text in texts_for("")] == [
        "a worker of your project with -Q q", "a worker of your project",
    ]  # fmt: skip
    assert [text.partition("start ")[2] for text in texts_for("hermes_celery")] == [
        "`celery -A hermes_celery worker -Q q`", "`celery -A hermes_celery worker` or `up`",
    ]  # fmt: skip
    assert beat_command("proj").startswith("`celery -A proj beat -S hermes`")
    assert beat_command("") == "the beat of your project"


def declare_app(database: Database, owner: str, module: str) -> None:
    declaration = Declaration(project=f"shop (module {module})", module=module)
    Declarations(database).say(owner, declaration)
    Formats(database).say_here(f"beat {owner}", now_ms=database.now_ms())


def test_the_app_is_the_one_that_living_beats_declare(valkey: Database) -> None:
    now_ms = valkey.now_ms()
    assert worker_app(valkey, now_ms=now_ms) == "hermes_celery"
    declare_app(valkey, "a", "shop.celery")
    assert worker_app(valkey, now_ms=now_ms) == "shop.celery"
    assert read_status(valkey).app == "shop.celery"
    assert read_status(valkey, app="given").app == "given"
    declare_app(valkey, "b", "blog")
    assert worker_app(valkey, now_ms=now_ms) == ""


def test_a_namespace_with_declared_jobs_belongs_to_a_project(valkey: Database) -> None:
    namespace = valkey.keys.namespace
    valkey.call("SADD", valkey.keys.managed(f"project:{namespace}"), "a" * 12)
    assert worker_app(valkey, now_ms=valkey.now_ms()) == ""
    assert worker_command("", queue="q") == "a worker of your project with -Q q"


def test_commands_in_a_text_get_the_given_app_and_namespace() -> None:
    def completed(text: str, **given: str) -> str:
        with click.Context(main) as context:
            about(context, Scope(app=given.get("app"), namespace=given.get("namespace")))
            return with_scope(text)

    others = "others are shop: hermes-celery -N shop list"
    mends = "`hermes-celery fsck --repair` mends it; upgrade hermes-celery on this machine"
    assert completed(others) == others
    assert completed(others, app="p1.shop", namespace="nope") == (
        "others are shop: hermes-celery -A p1.shop -N shop list"
    )
    assert completed(mends, namespace="shop") == mends.replace("celery fsck", "celery -N shop fsck")
    assert with_scope(mends) == mends


def test_advice_repeats_the_app_and_the_namespace(module: str) -> None:
    added = typed("-A", module, "add", "every 1h", "--task", "shop.good", "--args", "[1]")
    assert (added.exit_code, added.stderr) == (0, "")
    typed("-A", module, "add", "every 1h", "--task", "shop.good", "--args", "[1]")
    more = typed("-A", module, "list", "--limit", "1").stderr
    assert f"more: hermes-celery -A {module} list --limit 1 --after" in more
    paused = typed("-A", module, "pause", "--all").stdout
    assert f"`hermes-celery -A {module} resume --all` resumes them" in paused
    status = typed("-A", module, "status").stdout
    assert f"`hermes-celery -A {module} resume --all` resumes them" in status
    nobody = typed("-A", module, "-N", "nope-nope", "show", "x").stderr
    assert f"`hermes-celery -A {module} -N nope-nope list --all` shows them" in nobody


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("--task", "shop.nope"), "app 'adviceshop' has no task 'shop.nope'; check the name"),
        (("--task", "shop.good"), "the task shop.good does not take its arguments: "),
    ],
)
def test_a_task_call_that_may_fail_is_added_with_a_note(
    module: str, given: tuple[str, ...], why: str
) -> None:
    added = typed("-A", module, "add", "5m", *given, "--name", "x")
    assert added.exit_code == 0
    assert f"Note: job 'x' may not work: {why}" in added.stderr
    assert added.stdout.startswith("added ")
    edited = typed("-A", module, "edit", "x", "--task", "shop.good", "--args", "[1]")
    assert (edited.exit_code, edited.stderr) == (0, "")
