"""The names that a project imports; the names of 0.1.0 work for one more release."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.local import Proxy
from celery.schedules import crontab

import hermes_celery
from hermes_celery import (
    Client,
    Cron,
    JobRequest,
    JobState,
    Policy,
    RunState,
    TaskCall,
    parse_schedule,
)
from hermes_celery.errors import JobError, ScheduleError
from hermes_celery.instant import from_ms
from hermes_celery.settings import read_settings
from hermes_celery.wiring.project_jobs import make_beat

#: The modules and names in the documents of 0.1.0.
DOCUMENTED = [
    ("hermes_celery", "Cron"),
    ("hermes_celery", "JobRequest"),
    ("hermes_celery", "open_cron"),
    ("hermes_celery", "app"),
    ("hermes_celery.beat", "CronScheduler"),
    ("hermes_celery.session", "current_session"),
    ("hermes_celery.session", "get_session_env"),
]


def test_every_public_name_can_be_imported() -> None:
    assert [name for name in hermes_celery.__all__ if not hasattr(hermes_celery, name)] == []


@pytest.mark.parametrize(("module", "name"), DOCUMENTED)
def test_every_name_documented_by_0_1_0_is_still_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


def test_public_names_suffice_to_request_a_task() -> None:
    request = JobRequest(schedule="every 2h", task=TaskCall(name="shop.report"))

    assert request.task is not None


def test_public_names_suffice_for_schedules_policies_and_states() -> None:
    berlin = parse_schedule("30 2 * * *", timezone="Europe/Berlin")

    assert berlin.next_after(datetime(2027, 3, 27, 12, tzinfo=UTC)) == datetime(
        2027, 3, 28, 1, tzinfo=UTC
    )
    assert JobRequest(schedule="every 1h", policy=Policy(retries=3)).policy.retries == 3
    assert (JobState("paused"), RunState("lost")) == (JobState.PAUSED, RunState.LOST)


def test_declared_and_refused_jobs_are_listed_without_a_server() -> None:
    cron = declaring("redis://127.0.0.1:1")
    now = datetime(2026, 6, 22, 12, tzinfo=UTC)

    declared = cron.declared(now=now)

    assert {name: (job.next_run_at, job.spec.timezone) for name, job in declared.items()} == {
        "nightly": (datetime(2026, 6, 23, 0, tzinfo=UTC), "Europe/Berlin"),
        "often": (now + timedelta(seconds=90), "Asia/Tokyo"),
        "entry": (datetime(2026, 6, 22, 12, 30, tzinfo=UTC), "Asia/Tokyo"),
        "both": (now + timedelta(hours=1), "Asia/Tokyo"),
    }
    assert declared["nightly"].spec.policy.retries == 3
    assert declared["both"].spec.task == TaskCall(name="shop.added")
    refused = cron.refused()
    assert set(refused) == {"never", "past", "no task", "both", "neither"}
    assert "minute 60" in refused["never"]
    assert "no schedule" in refused["no task"]
    assert "two declarations are named 'both'" in refused["both"]
    assert "nothing to run" in refused["neither"]


@pytest.mark.parametrize("now", [datetime.fromisoformat("2026-06-22T12:00"), 0, "2026-06-22"])
def test_the_declared_jobs_at_no_aware_instant_are_refused(now: Any) -> None:
    with pytest.raises(ScheduleError, match=r"^now is .* aware datetime"):
        declaring("redis://127.0.0.1:1").declared(now=now)


@pytest.mark.usefixtures("valkey")
def test_the_beat_writes_exactly_the_declared_jobs(valkey_url: str, namespace: str) -> None:
    cron = declaring(_as_celery_writes(valkey_url), namespace=namespace)
    beat = make_beat(cron.app, owner="b")
    beat.step()
    beat.stop()

    written = {job.name: job for job in cron.client.all_jobs()}
    assert cron.declared(now=from_ms(written["often"].spec.created_ms)) == written
    assert cron.refused() == {one.name: one.why for one in cron.client.refusals() if one.is_refused}


def declaring(broker: str, **options: str) -> Cron:
    app = Celery("shop", broker=broker, set_as_current=False)
    app.conf.timezone = "Asia/Tokyo"
    app.conf.beat_schedule = {
        "entry": {"task": "shop.entry", "schedule": crontab(minute=30)},
        "no task": {"task": "shop.entry"},
        "both": {"task": "shop.entry", "schedule": 60},
        "neither": {"task": "shop.entry", "schedule": 60},
    }
    cron = Cron(app, settings=read_settings({}), **options)
    cron.add("nightly", "0 2 * * *", task="shop.report", timezone="Europe/Berlin", retries=3)
    cron.add("often", "every 90s", task="shop.often")
    cron.add("both", "every 1h", task="shop.added")
    cron.add("never", "60 * * * *", task="shop.report")
    cron.add("past", "2020-01-01T00:00", task="shop.report")
    cron.add("neither", "every 1h")
    return cron


def test_crontab_of_0_1_0_is_the_client_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match=r"hermes_celery\.Crontab is now .*\.Client;"):
        assert hermes_celery.Crontab is Client


def test_the_attribute_crontab_is_the_client_with_a_warning(valkey_url: str) -> None:
    cron = Cron(Celery("shop", broker=_as_celery_writes(valkey_url), set_as_current=False))

    with pytest.warns(DeprecationWarning, match=r"Cron\.crontab is deprecated.*use Cron\.client"):
        assert cron.crontab is cron.client


def test_an_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Crontabs'"):
        _ = hermes_celery.Crontabs


def _as_celery_writes(url: str) -> str:
    return url.replace("unix://", "redis+socket://")


@pytest.mark.parametrize("name", ["", " ", "\n"])
def test_a_declared_job_without_a_name_is_refused_alone(name: str) -> None:
    cron = declaring("redis://127.0.0.1:1")
    before = set(cron.declared())
    cron.add(name, "every 1h", prompt="x")
    assert set(cron.declared()) == before
    assert "its name is empty; give it one" in cron.refused()[name]


@pytest.mark.parametrize("wrong", [None, "shop", 5, float("nan"), {}])
def test_an_app_settings_or_namespace_of_another_class_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(JobError, match=r"^app is .*; it must be a Celery$"):
        Cron(wrong)
    if wrong is None:
        return
    app = Celery("shop", set_as_current=False)
    with pytest.raises(JobError, match=r"^settings is .*; it must be a Settings$"):
        Cron(app, settings=wrong)
    with pytest.raises(JobError, match=r"^settings is .*; it must be a Settings$"):
        hermes_celery.open_cron(wrong)
    with pytest.raises(JobError, match=r"^app is .*; it must be a Celery$"):
        hermes_celery.open_cron(app=wrong)
    if not isinstance(wrong, str):
        with pytest.raises(JobError, match=r"^namespace is .*; it must be a text$"):
            Cron(app, namespace=wrong)


def test_a_proxy_of_an_app_may_be_given_such_as_celerys_current_app() -> None:
    app = Celery("shop", set_as_current=False)
    Cron(Proxy(lambda: app)).add("report", "every 1h", task="shop.report")
    assert list(Cron(app).declared()) == ["report"]
