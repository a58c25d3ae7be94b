"""What a job can be: an agent, a script, an HTTP request or a Celery task; exactly one of them.

The values that describe the last two, and the rules that need nothing but the request itself.
Whether a script exists or a host may be called is decided where it runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from hermes_celery.errors import JobError

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_WORD = re.compile(r"[\w.:@\-]{1,100}")
_SHARED_NAME = "1 to 100 letters, digits, or any of . : @ _ -"
#: As long as AMQP has them; a comma parts the queues of `celery worker -Q`.
_QUEUE = re.compile(r"[^\s,]{1,255}")
_NO_HOST = "its host is not written as one, such as example.org or [::1]"
#: A day: no single run is meant to last longer.
_MAX_SECONDS = 86_400.0
#: RabbitMQ's; a Redis sorts its messages into the steps that the app has, by default up to 9.
MAX_PRIORITY = 255


class WorkKind(StrEnum):
    """What performs a run."""

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
    """One call of a Celery task of the user's own."""

    name: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    #: For `apply_async`, such as `expires`, `serializer` or `routing_key`.
    options: dict[str, Any] = {}
    #: Those of the three above that JSON changes, as they are; see `task_call`.
    exact: dict[str, Any] | None = None


def work_kind(*, http: HttpCall | None, task: TaskCall | None, no_agent: bool) -> WorkKind:
    """Which kind of work these fields of a job mean."""
    if http is not None:
        return WorkKind.HTTP
    if task is not None:
        return WorkKind.TASK
    return WorkKind.SCRIPT if no_agent else WorkKind.AGENT


def check_one_kind(fields: Mapping[str, Any]) -> None:
    """Refuse a job with no work, or with more than one kind of it. Raises JobError.

    `fields` are those of a request: prompt, script, skills, no_agent, http, task, interpreter.
    """
    calls = [name for name in ("http", "task") if fields[name] is not None]
    others = [name for name in ("prompt", "script", "skills", "no_agent") if fields[name]]
    if len(calls) > 1 or (calls and others):
        given = ", ".join(calls + others)
        raise JobError(f"a job is one kind of work, but {given} were given; make it several jobs")
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


def checked_http(call: HttpCall | None) -> HttpCall | None:
    """The request, its method in capitals. Raises JobError."""
    if call is None:
        return None
    method = call.method.strip().upper()
    if method not in _METHODS:
        raise JobError(f"{call.method!r} is no HTTP method; use one of {', '.join(_METHODS)}")
    try:
        parts = checked_url(call.url.strip())
    except ValueError as error:
        raise JobError(
            f"{call.url!r} is no URL to call: {error}; use http://host/path or https://host/path"
        ) from None
    if parts.username or parts.password:
        raise JobError("a URL with a user or password in it would be shown; use a header instead")
    for name, value in call.headers.items():
        if not _HEADER_NAME.fullmatch(name) or not value.isprintable():
            raise JobError(f"the header {name!r} is not a name and a value in one line")
    if any(not 100 <= status <= 599 for status in call.expect):
        raise JobError(f"expected statuses {list(call.expect)} must lie within 100 to 599")
    return msgspec.structs.replace(call, method=method, url=call.url.strip())


def checked_url(text: str) -> SplitResult:
    """The parts of an http(s) URL.

    Raises ValueError that says what is wrong and quotes nothing: the URL may be a secret.
    """
    parts = _split(text)
    if parts.scheme not in ("http", "https"):
        raise ValueError("it does not begin with http:// or https://")
    if not parts.hostname:
        raise ValueError("it names no host")
    if not text.isprintable() or " " in parts.netloc:
        raise ValueError("it has a blank or another character that is not printed")
    try:
        # As the resolver does it, which would raise this in the midst of connecting.
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
        parts.port  # noqa: B018 - it is read here, and may be none
    except ValueError:
        raise ValueError("its port is no number from 0 to 65535") from None
    return parts


def checked_queue(text: str | None) -> str | None:
    """A queue's name as it is; None where there is none. Raises JobError."""
    if not text:
        return None
    if not text.isprintable() or not _QUEUE.fullmatch(text):
        raise JobError(
            f"queue {text[:100]!r} must be 1 to 255 printable characters without blanks and commas"
        )
    return text


def checked_word(text: str | None, *, field: str) -> str | None:
    """A group's name, stripped; None where there is none. Raises JobError."""
    word = (text or "").strip()
    if word and not _WORD.fullmatch(word):
        raise JobError(f"{field} {text!r} must be {_SHARED_NAME}")
    return word or None


def checked_number(value: float | None, *, field: str, least: float, most: float) -> float | None:
    """A number within its limits. Raises JobError."""
    if value is not None and not least <= value <= most:
        raise JobError(f"{field} {value:g} must lie within {least:g} and {most:g}")
    return value


def checked_limits(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The checked numbers of a request that limit its runs. Raises JobError."""
    largest = 2.0**53
    limits = {
        "priority": (0, MAX_PRIORITY),
        "timeout_seconds": (0.1, _MAX_SECONDS),
        "idle_timeout_seconds": (0.0, _MAX_SECONDS),
        "group_limit": (1, 10_000),
        "token_budget": (1, largest),
        "cost_budget": (1e-6, largest),
    }
    if bool(fields["group"]) != (fields["group_limit"] is not None):
        raise JobError(
            "group and group_limit go together: whose runs are counted, and how many of them may "
            "run at once"
        )
    return {
        name: checked_number(fields[name], field=name, least=least, most=most)
        for name, (least, most) in limits.items()
    }


def checked_interpreter(text: str | None, *, script: str | None) -> str | None:
    """A program's name, or its absolute path. Raises JobError; which places are allowed is the
    worker's to say."""
    program = (text or "").strip()
    if not program:
        return None
    if not script:
        raise JobError(f"interpreter {program!r} is for scripts, and the job has none")
    if not program.isprintable() or ("/" in program and not program.startswith("/")):
        raise JobError(f"interpreter {program!r} must be a program's name or its absolute path")
    if " " in program or ".." in program.split("/"):
        raise JobError(f"interpreter {program!r} must be a program alone, without arguments and ..")
    return program
