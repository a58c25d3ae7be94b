"""What `add` and `edit` say about a job's work and its limits."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import click
import msgspec

from hermes_celery.job import SessionSource
from hermes_celery.work import MAX_PRIORITY, HttpCall, TaskCall

_OPTIONS = (
    click.option("--http", nargs=2, metavar="METHOD URL", help="Send this request."),
    click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="With --http."),
    click.option("--body", help="With --http."),
    click.option("--expect", metavar="STATUS,...", help="With --http; default: any 2xx."),
    click.option("--task", metavar="NAME", help="Call this Celery task of your project."),
    click.option("--args", "task_args", metavar="JSON", help="With --task: a list."),
    click.option("--kwargs", "task_kwargs", metavar="JSON", help="With --task: an object."),
    click.option("--interpreter", metavar="PROGRAM", help="Runs the script; in an allowed place."),
    click.option("--reasoning", help="The agent's reasoning effort."),
    click.option(
        "--session",
        type=click.Choice([choice.value for choice in SessionSource]),
        help="Whether its runs see who it was made for.",
    ),
    click.option("--queue", help="The Celery queue of its runs: `celery worker -Q NAME`."),
    click.option(
        "--priority",
        type=click.IntRange(0, MAX_PRIORITY),
        help="0 is taken first, 9 and more last.",
    ),
    click.option(
        "--timeout", "timeout_seconds", type=float, metavar="SECONDS", help="Then it is ended."
    ),
    click.option(
        "--idle-timeout",
        "idle_timeout_seconds",
        type=float,
        metavar="SECONDS",
        help="Ended after so long without activity.",
    ),
    click.option("--group", help="Counted together with the other jobs of this group."),
    click.option("--group-limit", type=int, metavar="N", help="Runs of the group at once."),
    click.option("--token-budget", type=int, metavar="N", help="Per day; then the job pauses."),
    click.option("--cost-budget", type=float, metavar="USD", help="Per day; then the job pauses."),
)
#: Typed apart, stored together.
_HTTP = ("headers", "body", "expect")
_TASK = ("task_args", "task_kwargs")


def work_options(command: Any) -> Any:
    """Add the options of this module to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_work(fields: MutableMapping[str, Any]) -> None:
    """Turn what was typed about a request or task into the fields of JobRequest, in place."""
    http = {name: fields.pop(name) for name in _HTTP}
    task = {name: fields.pop(name) for name in _TASK}
    fields["http"] = _http(fields["http"], http)
    fields["task"] = _task(fields["task"], task)


def _http(call: tuple[str, str] | None, more: Mapping[str, Any]) -> HttpCall | None:
    if not call:
        _refuse(more, "--http")
        return None
    headers = dict(_header(text) for text in more["headers"])
    return HttpCall(
        method=call[0],
        url=call[1],
        headers=headers,
        body=more["body"],
        expect=_statuses(more["expect"] or ""),
    )


def _task(name: str | None, more: Mapping[str, Any]) -> TaskCall | None:
    if not name:
        _refuse(more, "--task")
        return None
    return TaskCall(
        name=name,
        args=_json(more["task_args"], list, option="--args") or [],
        kwargs=_json(more["task_kwargs"], dict, option="--kwargs") or {},
    )


def _refuse(given: Mapping[str, Any], option: str) -> None:
    if any(given.values()):
        raise click.UsageError(f"that needs {option}, given whole; an edit replaces it whole, too")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"--header {text!r} must be NAME:VALUE")
    return name.strip(), value.strip()


def _statuses(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise click.UsageError(f"--expect {text!r} must be numbers such as 200,204") from None


def _json(text: str | None, kind: type, *, option: str) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise click.UsageError(f"{option} {text!r}: {error}") from None
