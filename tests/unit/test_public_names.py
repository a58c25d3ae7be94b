"""The names that a project imports, and those of 0.1.0, which work for one more release."""

from __future__ import annotations

import importlib

import pytest
from celery import Celery

import hermes_celery
from hermes_celery import Client, Cron, JobRequest, TaskCall

#: What the documents of 0.1.0 name.
DOCUMENTED = [
    ("hermes_celery", "Cron"),
    ("hermes_celery", "JobRequest"),
    ("hermes_celery", "open_cron"),
    ("hermes_celery", "app"),
    ("hermes_celery.beat", "CronScheduler"),
    ("hermes_celery.session", "current_session"),
    ("hermes_celery.session", "get_session_env"),
]


def test_every_public_name_is_there() -> None:
    assert [name for name in hermes_celery.__all__ if not hasattr(hermes_celery, name)] == []


@pytest.mark.parametrize(("module", "name"), DOCUMENTED)
def test_what_0_1_0_documents_is_where_it_was(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


def test_a_job_asks_for_a_task_by_public_names_alone() -> None:
    request = JobRequest(schedule="every 2h", task=TaskCall(name="shop.report"))

    assert request.task is not None


def test_the_verbs_of_0_1_0_are_the_client_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match=r"hermes_celery\.Crontab is called .*\.Client now"):
        assert hermes_celery.Crontab is Client


def test_a_projects_verbs_are_found_by_their_old_name_with_a_warning(valkey_url: str) -> None:
    cron = Cron(Celery("shop", broker=_as_celery_writes(valkey_url), set_as_current=False))

    with pytest.warns(DeprecationWarning, match=r"Cron\.crontab is called Cron\.client now"):
        assert cron.crontab is cron.client


def test_a_name_that_never_was_is_none() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Crontabs'"):
        _ = hermes_celery.Crontabs


def _as_celery_writes(url: str) -> str:
    return url.replace("unix://", "redis+socket://")
