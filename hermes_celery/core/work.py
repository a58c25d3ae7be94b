"""The kinds of work of a job: an agent, a script, an HTTP request or a Celery task.

Holds the values that describe a request and a task, and the rule that a job has exactly one kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from hermes_celery.errors import JobError

_NO_HOST = "its host is not a host name or address, such as example.org or [::1]"


class WorkKind(StrEnum):
    """The kind of work of a run."""

    AGENT = "agent"
    SCRIPT = "script"
    HTTP = "http"
    TASK = "task"


class HttpCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One HTTP request."""

    url: str
    method: str = "GET"
    headers: dict[str, str] = {}
    body: str | None = None
    #: Statuses that mean success; empty: every 2xx.
    expect: tuple[int, ...] = ()


class TaskCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call of a Celery task of the user's project."""

    name: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    #: Options of `apply_async`, such as `expires`, `serializer` or `routing_key`.
    options: dict[str, Any] = {}
    #: The exact form of `args`, `kwargs` or `options` where JSON changes them; see `task_call`.
    exact: dict[str, Any] | None = None


def work_kind(*, http: HttpCall | None, task: TaskCall | None, no_agent: bool) -> WorkKind:
    """Return the kind of work that these fields of a job mean."""
    if http is not None:
        return WorkKind.HTTP
    if task is not None:
        return WorkKind.TASK
    return WorkKind.SCRIPT if no_agent else WorkKind.AGENT


def check_one_kind(fields: Mapping[str, Any]) -> None:
    """Refuse a job that has no work, or more than one kind of it. Raises JobError.

    `fields` holds a request's prompt, script, skills, no_agent, http, task and interpreter.
    """
    calls = [name for name in ("http", "task") if fields[name] is not None]
    others = [name for name in ("prompt", "script", "skills", "no_agent") if fields[name]]
    if len(calls) > 1 or (calls and others):
        given = ", ".join(calls + others)
        raise JobError(f"a job has one kind of work, but {given} were given; make several jobs")
    if calls:
        return
    if fields["no_agent"] and not fields["script"]:
        raise JobError(
            "no_agent=True requires a script — with no agent and no script there is nothing for "
            "the job to run."
        )
    if not others:
        raise JobError(
            "the job has nothing to run: give a prompt, a script, a skill, an HTTP request or a "
            "Celery task"
        )


def checked_url(text: str) -> SplitResult:
    """Return the parts of an http(s) URL.

    Raises ValueError that says what is wrong. It quotes no part of the URL, which may be a secret.
    """
    parts = _split(text)
    if parts.scheme not in ("http", "https"):
        raise ValueError("it does not begin with http:// or https://")
    if not parts.hostname:
        raise ValueError("it names no host")
    if not text.isprintable() or " " in parts.netloc:
        raise ValueError("it has a blank or another character that is not printable")
    try:
        # The resolver does the same, and would raise while it connects.
        parts.hostname.encode("idna")
    except UnicodeError:
        raise ValueError(_NO_HOST) from None
    return parts


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError(_NO_HOST) from None
    if parts.netloc.rpartition("]")[2][:1] not in ("", ":") and "]" in parts.netloc:
        raise ValueError(_NO_HOST)
    try:
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        raise ValueError("its port is not a number from 0 to 65535") from None
    return parts
