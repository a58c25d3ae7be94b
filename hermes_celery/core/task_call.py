"""The call of a Celery task: which options are accepted, and how it is stored and read back.

Arguments and options are stored as Celery's JSON writes them (`typed_values`), so that older
versions can read them too. `TaskCall.exact` keeps what that form loses.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from math import isfinite
from typing import Any, Final

import msgspec

from hermes_celery.core.field_checks import MAX_PRIORITY, NumberWithin
from hermes_celery.core.typed_values import exact, live, plain
from hermes_celery.core.work import TaskCall
from hermes_celery.errors import JobError, cut, escaped, shown
from hermes_celery.schedule import duration_text

_PARTS: Final = ("args", "kwargs", "options")
MAX_TASK_NAME: Final = 1_000
_MAX_SHOWN: Final = 200
#: Limits of a countdown, in seconds: up to a year.
MIN_COUNTDOWN: Final = 0.1
MAX_COUNTDOWN: Final = 366 * 86_400
#: The header that carries the run in a message.
_OUR_HEADER: Final = "hermes"
#: Options of `apply_async` that the schedule or the run decides, and what to do instead.
_REFUSED: Final = {
    "eta": "a schedule has many instants; give the job a start, or one ISO time as its schedule",
    "countdown": "a run starts when it is due; write it into the schedule, as in '... delayed 10s'",
    "task_id": "each run has an id of its own; leave it out",
    "connection": "runs go through the app's own broker; leave it out",
    "producer": "runs go through the app's own broker; leave it out",
}
#: Celery's names for its canvas; a worker that receives one as a task can only fail.
_CANVAS: Final = frozenset(("celery.chain", "celery.group", "celery.chord"))
#: Headers of Celery's protocol; a user's value would change what the message means.
_CELERYS_HEADERS: Final = frozenset(
    (
        *("lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries"),
        *("timelimit", "root_id", "parent_id", "ignore_result", "replaced_task_nesting"),
        *("stamped_headers", "stamps"),
    )
)


def call_of(task: Any, *, args: Any = (), kwargs: Any = None, options: Any = None) -> TaskCall:
    """Make the call of a task from the task, its name or its signature. Raises JobError.

    Arguments that are given in addition to a signature are merged as in Celery's `Signature.clone`:
    positional ones are put before the signature's, and keyword arguments and options replace the
    signature's. An immutable signature takes options only.
    """
    args, given = argument_list(args), text_mapping(options, name="options")
    kwargs = text_mapping(kwargs, name="kwargs")
    clone = getattr(task, "clone", None)
    if isinstance(task, Mapping) and callable(clone):
        _check_is_one_task(task["task"])
        whole = clone(args, kwargs)
        return TaskCall(
            name=whole["task"],
            args=list(whole["args"]),
            kwargs=dict(whole["kwargs"]),
            options={**whole["options"], **given},
        )
    name = task if isinstance(task, str) else getattr(task, "name", None)
    if not isinstance(name, str):
        raise JobError(f"its task is {shown(task)}; give a task, its name or its signature")
    _check_is_one_task(name)
    return TaskCall(name=name, args=args, kwargs=kwargs, options=given)


def _check_is_one_task(name: str) -> None:
    """Refuse a canvas, which only a caller can start. Raises JobError."""
    if name in _CANVAS:
        kind = name.removeprefix("celery.")
        raise JobError(
            f"a {kind} is not a single task, so its run could not be followed; write a task that "
            f"starts it, as in `def start(): {kind}(...).apply_async()`, and give that task"
        )


def checked_task(call: Any) -> TaskCall | None:
    """Check a call, or a task's signature, and return it in its stored form.

    Raises JobError that names what is not accepted.
    """
    if call is None:
        return None
    if not isinstance(call, TaskCall):
        call = call_of(call)
    elif not isinstance(call.name, str):
        call = call_of(call.name, args=call.args, kwargs=call.kwargs, options=call.options)
    name = call.name
    if not name.strip() or not name.isprintable() or len(name) > MAX_TASK_NAME:
        raise JobError(f"{shown(name)} is not a task's name; use one like package.module.task")
    _check_is_one_task(name)
    try:
        call = live_call(_in_python(call))
        options = _checked_options(dict(call.options))
        return _stored(msgspec.structs.replace(call, options=options))
    except (TypeError, ValueError, RecursionError, UnicodeError, msgspec.MsgspecError) as error:
        if isinstance(error, JobError):
            raise
        raise JobError(f"arguments of {name} cannot be written as JSON: {error}") from None


def live_call(call: TaskCall) -> TaskCall:
    """Return a stored call with its arguments and options as Python objects. Raises ValueError."""
    parts = {part: _live_part(call, part) for part in _PARTS}
    return msgspec.structs.replace(call, **parts, exact=None)


def call_text(call: TaskCall) -> str:
    """Return the call as Python would write it, shortened."""
    with suppress(ValueError):
        call = live_call(call)
    words = [repr(value) for value in call.args]
    words += [f"{name}={value!r}" for name, value in call.kwargs.items()]
    text = f"{call.name}({', '.join(words)})"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def argument_list(args: Any) -> list[Any]:
    """Return positional arguments as a list. Raises JobError for anything but a list or tuple."""
    if args is None:
        return []
    if not isinstance(args, list | tuple):
        raise JobError(f"its args are {shown(args)}; give a list, such as [{shown(args)}]")
    return list(args)


def text_mapping(given: Any, *, name: str) -> dict[str, Any]:
    """Return keyword arguments or options as a dict. Raises JobError.

    `name` is the name that messages use for them.
    """
    # The default of kwargs in celery.Signature and add_periodic_task is ().
    if given is None or given == ():
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise JobError(f"its {name} are {shown(given)}; give a dict with texts as keys")
    return dict(given)


def _in_python(call: TaskCall) -> TaskCall:
    return msgspec.structs.replace(
        call,
        args=argument_list(call.args),
        kwargs=text_mapping(call.kwargs, name="kwargs"),
        options=text_mapping(call.options, name="options"),
    )


def _live_part(call: TaskCall, part: str) -> Any:
    stored = getattr(call, part)
    if call.exact is not None and part in call.exact:
        whole = live(call.exact[part])
        # An older version may have changed the plain form, and left the exact one.
        if plain(whole, place=part) == stored:
            return whole
    return live(stored)


def _stored(call: TaskCall) -> TaskCall:
    written = {part: plain(getattr(call, part), place=part) for part in _PARTS}
    whole = {part: exact(getattr(call, part), place=part) for part in _PARTS}
    more = {part: whole[part] for part in _PARTS if whole[part] != written[part]}
    call = msgspec.structs.replace(call, **written, exact=more or None)
    # Use the form that is read back, so that stored and declared calls can be compared.
    return msgspec.json.decode(msgspec.json.encode(call), type=TaskCall)


def _checked_options(options: dict[str, Any]) -> dict[str, Any]:
    for name, instead in _REFUSED.items():
        if options.get(name) is not None:
            raise JobError(f"the option {name} is not accepted: {instead}")
        options.pop(name, None)
    if "expires" in options:
        options["expires"] = _checked_expires(options["expires"])
    if "headers" in options:
        options["headers"] = _checked_headers(options["headers"])
    if "priority" in options:
        options["priority"] = checked_priority(options["priority"])
    if "queue" in options:
        options["queue"] = queue_name(options["queue"])
    return {name: value for name, value in options.items() if value is not None}


def late_text(schedule: str, options: dict[str, Any]) -> str:
    """Return the schedule of an entry with a countdown; take the countdown out of its options.

    Celery's beat sends such a message when the entry is due, and the task starts after the
    countdown. The message's lifetime counts from the sending. Raises JobError.
    """
    countdown = options.pop("countdown", None)
    if not countdown:
        return schedule
    if isinstance(countdown, bool) or not isinstance(countdown, int | float):
        raise JobError(f"the option countdown is {shown(countdown)}; give a number of seconds")
    if not MIN_COUNTDOWN <= countdown <= MAX_COUNTDOWN:
        raise JobError(
            f"the option countdown is {shown(countdown)}; give {MIN_COUNTDOWN} s to "
            f"{MAX_COUNTDOWN} s"
        )
    expires = options.get("expires")
    if isinstance(expires, int | float):
        if expires <= countdown:
            raise JobError(f"it expires after {expires} s, before its countdown of {countdown} s")
        options["expires"] = expires - countdown
    parts = [part.strip() for part in schedule.split("|")]
    late = f" delayed {duration_text(round(countdown * 1000))}"
    return " | ".join(f"{part}{late}" for part in parts)


def queue_name(queue: Any) -> str | None:
    """Return the name of a queue that is given by name or as kombu's Queue. Raises JobError."""
    if queue is None:
        return None
    name = getattr(queue, "name", queue)
    kind = getattr(getattr(queue, "exchange", None), "type", "direct")
    if not isinstance(name, str):
        raise JobError(f"the queue {shown(queue)} has no name; give the name alone")
    if kind != "direct":
        raise JobError(
            f"the queue {escaped(cut(name))} has a {kind} exchange; a run needs exactly one queue: "
            "declare it in task_queues with a direct exchange and give its name"
        )
    return name


def checked_priority(priority: Any) -> int | None:
    """Return a message's priority unchanged. Raises JobError if it is not valid."""
    if priority is None:
        return None
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise JobError(f"priority {shown(priority)} is not a whole number of 0 to {MAX_PRIORITY}")
    NumberWithin("priority", 0, MAX_PRIORITY)(priority)
    return int(priority)


def _checked_expires(expires: Any) -> float | str | None:
    """Return the lifetime in seconds, or as an instant in Celery's message format."""
    if expires is None:
        return None
    if isinstance(expires, datetime):
        return expires.isoformat()
    if isinstance(expires, int | float) and not isinstance(expires, bool):
        if isfinite(expires) and expires > 0:
            return expires
        raise JobError(f"the option expires is {shown(expires)}; give more than 0 seconds")
    if isinstance(expires, str) and _is_instant(expires):
        return expires
    seconds = f", here {expires.total_seconds():g}" if isinstance(expires, timedelta) else ""
    raise JobError(
        f"the option expires is {shown(expires)}, which apply_async does not accept; give a number "
        f"of seconds{seconds}, or a datetime"
    )


def _is_instant(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return len(text) > len("2024-01-01")


def _checked_headers(headers: Any) -> Mapping[str, Any] | None:
    if headers is None:
        return None
    if not isinstance(headers, Mapping) or not all(isinstance(name, str) for name in headers):
        raise JobError(f"the option headers is {shown(headers)}; give a dict with texts as keys")
    if _OUR_HEADER in headers:
        raise JobError(
            f"the option headers has the key {_OUR_HEADER!r}, which carries a run's session; use "
            "another name"
        )
    celerys = sorted(_CELERYS_HEADERS.intersection(headers))
    if celerys:
        raise JobError(
            f"the option headers has the key {', '.join(celerys)}, which is Celery's own; use "
            "another name"
        )
    return dict(headers)
