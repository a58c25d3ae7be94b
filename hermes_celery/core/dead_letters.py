"""Find what is wrong with an unreadable message, and decide what to keep of it.

`fault_of` checks a message after kombu has decoded it and before Celery sees it; `fault_of_call`
checks its arguments. They refuse messages that would end a worker's main process, or would fail
without any report. Messages for which Celery has an error of its own are left to Celery. Values and
decisions only.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from hermes_celery.instant import from_ms, iso

#: Number of letters that are kept, and bytes of each: at most 8 MB together.
KEPT = 1_000
KEPT_BYTES = 4_096
#: A waiting run ends when its message was unreadable this many times.
PATIENCE = 3
#: An incident of dead letters is over when none came for this long.
QUIET_MS = 15 * 60_000
#: The end of the reason for a task that a worker does not know.
NOT_REGISTERED = "is not registered on this worker"
_MAX_WHY = 300
_MAX_ID = 1_000
_MAX_LIMIT_SECONDS = 10 * 365 * 86_400
#: Levels of nesting; pickling a message for a pool process takes one level of C's stack for each.
_MAX_DEPTH = 100
_RUN_ID = re.compile(
    rb'"id":\s{0,8}"([0-9a-f]{12}-\d{8}T\d{6}(?:\.\d{3})?Z(?:-[0-9a-f]{4,16})?)'
    # The number of a message that was pushed again.
    rb'(?:\.\d{1,9})?"'
)
#: The part of an undecodable message in which its id is searched.
_SEARCHED_BYTES = 65_536


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was taken from a queue and could not be processed."""

    queue: str
    #: What is wrong with it, in one line.
    why: str
    worker: str
    #: When it was taken, in Unix milliseconds of the server's clock.
    at_ms: int
    #: Bytes of the whole message.
    size: int
    #: The first 4 KiB of the message, in base64.
    head: str
    run_id: str = ""

    @property
    def at(self) -> datetime:
        """The time at which it was taken, aware UTC."""
        return from_ms(self.at_ms)

    @property
    def advice(self) -> str:
        """The next thing to do about it, as part of a sentence."""
        return advice_on(self.why)

    def raw(self) -> bytes:
        """Return the first 4 KiB of the message."""
        return b64decode(self.head)

    def as_json(self) -> dict[str, Any]:
        """Return the values under the stable keys of `--json`; `head` is base64."""
        record = msgspec.structs.asdict(self)
        del record["at_ms"]
        return {"at": iso(self.at), **record}


def advice_on(why: str) -> str:
    """Return what to do about a message that has this fault."""
    if NOT_REGISTERED in why:
        return (
            "let the queue's workers import the task's module (imports, include, "
            "autodiscover_tasks), or route the task to a queue whose workers have it"
        )
    return "find who sends such messages"


def letter(raw: bytes, *, queue: str, why: str, worker: str, at_ms: int) -> DeadLetter:
    """Make the dead letter that is kept of a message."""
    found = _RUN_ID.search(raw[:_SEARCHED_BYTES])
    return DeadLetter(
        queue=queue[:_MAX_WHY],
        why=one_line(why),
        worker=worker,
        at_ms=at_ms,
        size=len(raw),
        head=b64encode(raw[:KEPT_BYTES]).decode(),
        run_id=found.group(1).decode() if found else "",
    )


def one_line(why: str) -> str:
    """Shorten a reason, which may quote the message, to one line."""
    return " ".join(why.split())[:_MAX_WHY]


def fault_of(message: Any) -> str | None:
    """Return what is wrong with a decoded message as a whole; None if Celery may see it."""
    if not isinstance(message, dict):
        return f"it is not a JSON object but {_kind(message)}"
    properties, headers = message.get("properties"), message.get("headers")
    if not isinstance(properties, dict):
        return f"its properties are {_kind(properties)}"
    if headers is not None and not isinstance(headers, dict):
        return f"its headers are {_kind(headers)}"
    return (
        _first_fault(message, _ENVELOPE, "its")
        or _first_fault(properties, _PROPERTIES, "its property")
        or _fault_of_headers(headers or {})
    )


def fault_of_call(body: object, args: Any, kwargs: Any, embed: Any) -> str | None:
    """Return what is wrong with a task's arguments; None if a pool may have them.

    `body` is the undecoded body of the message, `embed` the third part of it.
    """
    if not isinstance(args, (list, tuple)):
        return f"its args are {_kind(args)}"
    if not isinstance(kwargs, dict):
        return f"its kwargs are {_kind(kwargs)}"
    if embed is not None and not isinstance(embed, dict):
        return f"the third part of its body is {_kind(embed)}"
    fault = _first_fault(embed or {}, _EMBED, "its")
    if fault is None and _may_be_deep(body) and _is_deep((args, kwargs)):
        return f"its arguments are nested more than {_MAX_DEPTH} deep"
    return fault


def _fault_of_headers(headers: dict[str, Any]) -> str | None:
    if "task" not in headers:
        return None
    fault = _first_fault(headers, _HEADERS, "its header")
    if fault is None and _is_deep(headers):
        return f"its headers are nested more than {_MAX_DEPTH} deep"
    return fault


_Check = Callable[[Any], bool]


def _first_fault(values: dict[str, Any], checks: dict[str, _Check], where: str) -> str | None:
    for name, is_right in checks.items():
        if not is_right(values.get(name)):
            return f"{where} {name} is {_kind(values.get(name))}"
    return None


def _kind(value: Any) -> str:
    """Describe a value by its type, and quote it where that says more."""
    if value is None:
        return "missing or null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}: {_shown(value)}" if len(value) <= 3 else "a list"
    return _shown(value)


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except (RecursionError, ValueError):
        return type(value).__name__


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_ID


def _is_list(value: Any) -> bool:
    return value is None or isinstance(value, list)


def _is_object(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _are_texts(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(v, str) for v in value))


def _are_limits(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and len(value) == 2 and all(map(_is_limit, value))


def _is_limit(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value <= _MAX_LIMIT_SECONDS and math.isfinite(value)


def _may_be_deep(body: object) -> bool:
    """Return whether a body has enough brackets to be nested too deep; counting them is cheap."""
    if isinstance(body, str):
        body = body.encode(errors="replace")
    if not isinstance(body, (bytes, bytearray, memoryview)):
        return True
    data = bytes(body)
    return data.count(b"[") + data.count(b"{") > _MAX_DEPTH


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        inner: list[Any] = []
        for one in level:
            parts = one.values() if isinstance(one, dict) else one
            inner += [part for part in parts if isinstance(part, (dict, list, tuple))]
        if not inner:
            return False
        level = inner
    return True


_ENVELOPE: dict[str, _Check] = {
    "body": _is_text,
    "content-type": _is_text,
    "content-encoding": _is_text,
}
_PROPERTIES: dict[str, _Check] = {
    "delivery_tag": _is_name,
    "delivery_info": _is_object,
    "body_encoding": _is_text,
    "reply_to": _is_text,
    "correlation_id": _is_text,
}
_HEADERS: dict[str, _Check] = {
    "id": _is_name,
    "task": _is_name,
    "timelimit": _are_limits,
    "retries": _is_count,
    "replaced_task_nesting": _is_count,
    "root_id": _is_text,
    "parent_id": _is_text,
    "shadow": _is_text,
    "argsrepr": _is_text,
    "kwargsrepr": _is_text,
    "compression": _is_text,
    "stamped_headers": _are_texts,
    "stamps": _is_object,
    "errbacks": _is_list,
    "callbacks": _is_list,
    "chord": _is_object,
}
_EMBED: dict[str, _Check] = {
    "callbacks": _is_list,
    "errbacks": _is_list,
    "chain": _is_list,
    "chord": _is_object,
}
