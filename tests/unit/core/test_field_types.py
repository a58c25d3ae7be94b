"""A field of the wrong type is refused with one sentence that names the field."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery

from hermes_celery.core.job import JobRequest, Origin
from hermes_celery.core.job_checks import define, redefine
from hermes_celery.core.policy import OnLost, Overlap, Policy
from hermes_celery.core.work import HttpCall
from hermes_celery.errors import JobError
from hermes_celery.interop.cron_attributes import DECLARED, REFUSED
from hermes_celery.wiring.project import Cron

NOON = datetime(2026, 6, 22, 12, tzinfo=UTC)
TEXTS = (
    "name", "prompt", "script", "deliver", "failure_deliver", "template", "ping", "model",
    "provider", "base_url", "workdir", "interpreter", "reasoning", "session", "queue", "group",
)  # fmt: skip
WRONG: list[tuple[str, Any, str]] = [
    *((name, 5, f"{name} is 5; it must be a text") for name in TEXTS),
    ("repeat", "x", "repeat is 'x'; it must be a whole number"),
    ("repeat", True, "repeat is True; it must be a whole number"),
    ("priority", "x", "priority is 'x'; it must be a whole number"),
    ("priority", 1.5, "priority is 1.5; it must be a whole number"),
    ("group_limit", "2", "group_limit is '2'; it must be a whole number"),
    ("token_budget", [1], "token_budget is [1]; it must be a whole number"),
    ("cost_budget", "1", "cost_budget is '1'; it must be a number"),
    ("timeout_seconds", "1", "timeout_seconds is '1'; it must be a number"),
    ("jitter_seconds", None, "jitter_seconds is None; it must be a whole number"),
    ("no_agent", "yes", "no_agent is 'yes'; it must be True or False"),
    ("skills", "news", "skills is 'news'; it must be a list of texts"),
    ("skills", [1], "skills is [1]; it must be a list of texts"),
    ("context_from", 5, "context_from is 5; it must be a list of texts or a text"),
    ("exclude", "mon", "exclude is 'mon'; it must be a list of texts"),
    ("start", "2026-01-01", "start is '2026-01-01'; it must be a datetime"),
    ("policy", "x", "policy is 'x'; it must be a Policy(...)"),
    ("policy", Policy(retries="x"), "policy.retries is 'x'; it must be a whole number"),  # type: ignore[arg-type]
    ("policy", Policy(overlap="x"),  # type: ignore[arg-type]
     "policy.overlap is 'x'; it must be one of skip, allow, queue_one, replace"),
    ("origin", "telegram", "origin is 'telegram'; it must be an Origin(...)"),
    ("origin", Origin(chat_id=5), "origin.chat_id is 5; it must be a text"),  # type: ignore[arg-type]
    ("http", "http://x", "http is 'http://x'; it must be an HttpCall(...)"),
    ("http", HttpCall(url=5), "http.url is 5; it must be a text"),  # type: ignore[arg-type]
    ("http", HttpCall(url="http://x", expect=("a",)),  # type: ignore[arg-type]
     "http.expect is ('a',); it must be a list of whole numbers"),
    ("timezone", 5, "timezone is 5; it must be a name such as 'Europe/Berlin', or a ZoneInfo"),
    ("timezone", 0, "timezone is 0; it must be a name such as 'Europe/Berlin', or a ZoneInfo"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "why"), WRONG, ids=str)
def test_a_request_with_a_wrong_type_is_refused_by_the_fields_name(
    field: str, value: Any, why: str
) -> None:
    request = JobRequest(**{"schedule": "every 5m", "prompt": "x", field: value})
    with pytest.raises(JobError, match=f"^{re.escape(why)}$"):
        define(request, job_id="a" * 12, now=NOON, default_timezone="UTC")


@pytest.mark.parametrize(("field", "value", "why"), WRONG, ids=str)
def test_a_declaration_with_a_wrong_type_is_refused_by_the_fields_name(
    field: str, value: Any, why: str
) -> None:
    cron = Cron(Celery("shop", broker="redis://nowhere", set_as_current=False))
    fields = {"name": "x", "schedule": "every 5m", "prompt": "x", field: value}
    if field == "name":
        with pytest.raises(JobError, match=f"^{re.escape(why)}$"):
            cron.add(**fields)
        return
    cron.add(**fields)
    assert getattr(cron.app, REFUSED) == {"x": why}
    assert getattr(cron.app, DECLARED) == {}


@pytest.mark.parametrize(("field", "value", "why"), WRONG, ids=str)
def test_a_change_with_a_wrong_type_is_refused_by_the_fields_name(
    field: str, value: Any, why: str
) -> None:
    request = JobRequest(schedule="every 5m", prompt="x")
    spec, _ = define(request, job_id="a" * 12, now=NOON, default_timezone="UTC")
    with pytest.raises(JobError, match=f"^{re.escape(why)}$"):
        redefine(spec, {field: value}, now=NOON, default_timezone="UTC")


def test_texts_are_accepted_for_enum_fields() -> None:
    policy = Policy(overlap="allow", max_active=3, on_lost="retry")  # type: ignore[arg-type]
    request = JobRequest(schedule="every 5m", prompt="x", policy=policy, timeout_seconds=5)
    spec, _ = define(request, job_id="a" * 12, now=NOON, default_timezone="UTC")
    assert (spec.policy.overlap, spec.policy.on_lost) == (Overlap.ALLOW, OnLost.RETRY)
    changed = redefine(spec, {"session": "none"}, now=NOON, default_timezone="UTC")
    again = redefine(changed, {"prompt": "y"}, now=NOON, default_timezone="UTC")
    assert again.session == "none"
