"""Check single fields of a job: each check takes a value and returns what to store.

A check sees its own field alone. It raises JobError or ScriptError that says what was given, what
is wrong and what to do. Rules about several fields are in `job_checks`. The rules are Hermes' own
where it has any (hermes-agent 0.19, cron/jobs.py as recorded). Whether a script exists or a host
may be called is decided on the worker.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

import msgspec

from hermes_celery.core.counted import counted
from hermes_celery.core.origin import SessionSource
from hermes_celery.core.prompt_scan import check_prompt
from hermes_celery.core.work import HttpCall, checked_url
from hermes_celery.errors import JobError, ScriptError, ScriptNotRelative, shown
from hermes_celery.masking.server_urls import without_passwords_in
from hermes_celery.schedule.schedule import instant_ms

MAX_NAME = 200
MAX_PROMPT = 100_000
MAX_TEMPLATE = 100_000
MAX_REPEAT = 1_000_000_000
#: The largest number of a field without a limit of its own: JSON and Lua keep all whole numbers
#: up to it exactly.
LARGEST = 2.0**53
#: RabbitMQ's limit; on Redis, Celery maps priorities to the app's steps, by default up to 9.
MAX_PRIORITY = 255
_GATEWAY_COMMAND = re.compile(r"\bhermes\s+gateway\s+(restart|stop|kill)\b", re.IGNORECASE)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
#: The statuses of a final answer.
MIN_STATUS, MAX_STATUS = 200, 599
#: Headers that the HTTP client sets from the body.
_FRAMING = ("content-length", "transfer-encoding")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_WORD = re.compile(r"[\w.:@\-]{1,100}")
SHARED_NAME = "1 to 100 letters, digits, or any of . : @ _ -"
QUEUE_NAME = "1 to 255 printable characters, no blanks or commas"
#: AMQP's longest name; no comma, because it separates the queues of `celery worker -Q`.
_QUEUE = re.compile(r"[^\s,]{1,255}")


# --- texts, lists, numbers, instants


def stripped(text: str | None) -> str | None:
    """Return a text without surrounding blanks; None if nothing is left."""
    return (text or "").strip() or None


def stripped_list(values: Sequence[str] | str | None) -> tuple[str, ...]:
    """Return stripped texts without empty ones and duplicates; a single text is a list of one."""
    values = [values] if isinstance(values, str) else values or ()
    return tuple(dict.fromkeys(value.strip() for value in values if value.strip()))


def stripped_list_or_none(values: Sequence[str] | None) -> tuple[str, ...] | None:
    """Do the same as `stripped_list`, but return None if nothing is left."""
    return stripped_list(values) or None


@dataclass(frozen=True, slots=True)
class NumberWithin:
    """A check that accepts None and numbers from `low` to `high`."""

    name: str
    low: float
    high: float

    def __call__(self, value: float | None) -> float | None:
        """Return the value. Raises JobError if it is outside."""
        if value is not None and not self.low <= value <= self.high:
            raise JobError(
                f"{self.name} is {value:.16g}; it must be {self.low:.16g} to {self.high:.16g}"
            )
        return value

    @property
    def limits(self) -> str:
        """The limits for people, such as `0 to 86,400 (1 day)`."""
        low, high = f"{self.low:,f}".rstrip("0").rstrip("."), f"{self.high:,.16g}"
        if self.high == LARGEST:
            return f"{low} or more"
        days, rest = divmod(self.high, 86_400)
        is_days = self.name.endswith("_seconds") and not rest
        return f"{low} to {high}" + (f" ({counted(int(days), 'day')})" if is_days else "")


def instant(value: datetime | None) -> int | None:
    """Return an aware instant as Unix milliseconds. Raises ScheduleError if it is naive."""
    return None if value is None else instant_ms(value)


# --- what performs the work


def checked_prompt(prompt: str | None) -> str:
    """Refuse a prompt that is too long or harmful."""
    prompt = prompt or ""
    if len(prompt) > MAX_PROMPT:
        raise JobError(
            f"the prompt has {len(prompt):,} characters, more than {MAX_PROMPT:,}; "
            "put the bulk into a script or a skill"
        )
    check_prompt(prompt)
    if _GATEWAY_COMMAND.search(prompt):
        raise JobError(
            "Blocked: cron job contains a gateway lifecycle command (restart/stop/kill). This is "
            "blocked to prevent agent-driven SIGTERM-respawn loops under launchd/systemd "
            "supervision (#30719). Run `hermes gateway restart` from a shell outside the running "
            "gateway instead."
        )
    return prompt


def checked_script(script: str | None) -> str | None:
    """Check, by its text alone, that a script's path stays inside the scripts directory.

    The worker checks it again on the file system, with links resolved.
    """
    script = stripped(script)
    if not script:
        return None
    if script.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:", script):
        raise ScriptNotRelative(script)
    depth = 0
    for part in PurePosixPath(script.replace("\\", "/")).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise ScriptError(
                f"Script path escapes the scripts directory via traversal: {script!r}"
            )
    if "\0" in script or "\n" in script:
        raise ScriptError(f"Script path {script!r} holds a control character; rename the file")
    return script


def checked_interpreter(text: str | None) -> str | None:
    """Check a program's name or absolute path; the worker decides which directories are allowed."""
    program = stripped(text)
    if program is None:
        return None
    if not program.isprintable() or ("/" in program and not program.startswith("/")):
        raise JobError(f"interpreter {program!r} must be a program's name or its absolute path")
    if " " in program or ".." in program.split("/"):
        raise JobError(f"interpreter {program!r} must be a program alone, without arguments and ..")
    return program


def checked_workdir(workdir: str | None) -> str | None:
    """Refuse a working directory whose path is not absolute."""
    text = stripped(workdir)
    if text and not PurePosixPath(text).is_absolute():
        raise JobError(
            f"Cron workdir must be an absolute path (got {text!r}). Cron jobs run detached from "
            "any shell cwd, so relative paths are ambiguous."
        )
    return text


def checked_reasoning(text: str | None) -> str | None:
    """Check the form of the word for the agent's effort; the agent decides which words it knows."""
    word = stripped(text)
    if word and not _WORD.fullmatch(word):
        raise JobError(f"reasoning {shown(word)} must be {SHARED_NAME}")
    return word


def checked_base_url(url: str | None) -> str | None:
    """Return a base URL without its trailing slash; further rules are the agent's."""
    text = (stripped(url) or "").rstrip("/")
    if text.lower().startswith(("http://", "https://")):
        try:
            checked_url(text)
        except ValueError as error:
            masked = without_passwords_in(text)
            raise JobError(f"base_url {masked!r} cannot be called: {error}") from None
    return text or None


def checked_http(call: HttpCall | None) -> HttpCall | None:
    """Check a request and return it with its method in capitals."""
    if call is None:
        return None
    method = call.method.strip().upper()
    if method not in METHODS:
        raise JobError(
            f"{shown(call.method)} is not an HTTP method; use one of {', '.join(METHODS)}"
        )
    try:
        parts = checked_url(call.url.strip())
    except ValueError as error:
        masked = without_passwords_in(call.url)
        raise JobError(
            f"{masked!r} is not a URL to call: {error}; use http://host/path or https://host/path"
        ) from None
    if parts.username or parts.password:
        raise JobError("the URL contains a user or password, which would be shown; use a header")
    _check_header_names(call.headers)
    for name, value in call.headers.items():
        if not _HEADER_NAME.fullmatch(name) or not value.isprintable():
            raise JobError(
                f"the header {shown(name)} must be a name and a value without line breaks"
            )
    if any(not MIN_STATUS <= status <= MAX_STATUS for status in call.expect):
        raise JobError(
            f"expected statuses {list(call.expect)} must be {MIN_STATUS} to {MAX_STATUS}; a final "
            "answer has no other"
        )
    return msgspec.structs.replace(call, method=method, url=call.url.strip())


def _check_header_names(headers: Mapping[str, str]) -> None:
    """Refuse headers that cannot be sent as they are written. Raises JobError."""
    seen: dict[str, str] = {}
    for name in headers:
        before = seen.setdefault(name.lower(), name)
        if before != name:
            raise JobError(
                f"the headers {shown(before)} and {shown(name)} are the same header; give one"
            )
        if name.lower() in _FRAMING:
            raise JobError(f"the header {shown(name)} is set from the body; leave it out")


# --- names and words


def check_name(name: str) -> None:
    """Raise JobError for a name that is too long or holds control characters."""
    if len(name) > MAX_NAME:
        raise JobError(
            f"the name has {len(name):,} characters, more than {MAX_NAME}; it begins "
            f"{shown(name)}. Give a shorter one"
        )
    if not name.isprintable():
        raise JobError(f"the name {shown(name)} contains unprintable characters; use plain text")


def checked_session(text: str | None) -> SessionSource | None:
    """Return the word that decides whether runs see the job's origin."""
    word = stripped(text)
    if word is None:
        return None
    try:
        return SessionSource(word)
    except ValueError:
        raise JobError(f"session {shown(text)} must be 'origin' or 'none'") from None


def checked_queue(text: str | None) -> str | None:
    """Return a queue's name unchanged; None if there is none."""
    if not text:
        return None
    if not text.isprintable() or not _QUEUE.fullmatch(text):
        raise JobError(f"queue {shown(text)} must be {QUEUE_NAME}")
    return text


def checked_group(text: str | None) -> str | None:
    """Return a group's name without surrounding blanks; None if there is none."""
    word = stripped(text)
    if word and not _WORD.fullmatch(word):
        raise JobError(f"group {shown(text)} must be {SHARED_NAME}")
    return word
