"""Convert the text that a user typed to the value of a field.

Each reader raises ValueError (or JobError, a kind of it) that says what is wrong with the text.
Whether the value is allowed is decided by the field's check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from hermes_celery.core.origin import Origin
from hermes_celery.core.work import HttpCall, TaskCall
from hermes_celery.errors import JobError, listed, shown


def as_typed(text: Any) -> Any:
    """Return the text unchanged."""
    return text


def whole(text: str) -> int:
    """Read a whole number."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a whole number") from None


def number(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a number") from None


def word_of(words: type[StrEnum]) -> Callable[[str], StrEnum]:
    """Return a reader that accepts the values of an enum."""

    def read(text: str) -> StrEnum:
        try:
            return words(text)
        except ValueError:
            raise ValueError(f"{shown(text)} must be one of {', '.join(words)}") from None

    return read


def time(text: str) -> datetime:
    """Read an ISO time. One without an offset is naive: local to the person who typed it."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not an ISO time such as 2027-03-28T14:00") from None


def repeat(text: str) -> int | None:
    """Read `forever`, `once` or a whole number. Raises JobError in Hermes' wording."""
    word = text.strip().lower()
    if word in ("forever", "always", "inf", "infinite"):
        return None
    if word == "once":
        return 1
    try:
        times = int(word)
    except ValueError:
        raise JobError(
            f"Invalid repeat {shown(text)}: give a whole number, 'once' or 'forever'"
        ) from None
    if times < 0:
        raise JobError(
            f"Invalid repeat {shown(text)}: give a number from 1 on, 'once' or 'forever'"
        )
    return times


def origin(text: str) -> Origin:
    """Read an origin from a JSON object."""
    known = Origin.__struct_fields__
    try:
        given = msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ValueError(f"{shown(text)} is not a JSON object of texts: {error}") from None
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(
            f"an origin has no field {listed(unknown)}; its fields are {', '.join(known)}"
        )
    return msgspec.convert(given, Origin)


def http(given: tuple[str, str] | None, parts: Mapping[str, Any]) -> HttpCall | None:
    """Make a request from its method and URL, headers (NAME:VALUE), body and expected statuses."""
    if given is None:
        _refuse(parts, "--http")
        return None
    return HttpCall(
        method=given[0],
        url=given[1],
        headers=dict(_header(text) for text in parts["headers"]),
        body=parts["body"],
        expect=_statuses(parts["expect"] or ""),
    )


def request_text(call: HttpCall) -> str:
    """Format a request for people: what it sends and expects, without the values of its headers."""
    details = (
        f"headers {', '.join(call.headers)}" if call.headers else "",
        f"a body of {len(call.body)} characters" if call.body else "",
        f"expects {', '.join(map(str, call.expect))}" if call.expect else "",
    )
    shown = "; ".join(filter(None, details))
    return f"{call.method} {call.url}" + (f"  ({shown})" if shown else "")


def task(name: str | None, parts: Mapping[str, Any]) -> TaskCall | None:
    """Make a call from a task's name and its positional and keyword arguments, both in JSON."""
    if name is None:
        _refuse(parts, "--task")
        return None
    return TaskCall(
        name=name,
        args=_json(parts["task_args"], list, option="--args") or [],
        kwargs=_json(parts["task_kwargs"], dict, option="--kwargs") or {},
    )


def _refuse(given: Mapping[str, Any], option: str) -> None:
    if any(value not in (None, ()) for value in given.values()):
        raise ValueError(f"this needs {option} as well: an edit replaces it with all its parts")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"--header {shown(text)} must be NAME:VALUE")
    return name.strip(), value.strip()


def _statuses(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"--expect {shown(text)} must be numbers such as 200,204") from None


def _json(text: str | None, kind: type, *, option: str) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{option} {shown(text)}: {error}") from None
