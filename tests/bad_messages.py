"""A corpus of malformed messages that must not stop a worker.

Each is the raw value of a list in Redis. A case changes one part of a good message; the rest
of the message stays valid.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

_GOOD_BODY: list[Any] = [
    ["run"],
    {},
    {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
]
_MIB = 1 << 20


def encoded(body: Any) -> str:
    """Return a body in the encoding that kombu uses."""
    return b64encode(json.dumps(body).encode()).decode()


def good(task: str = "hermes_celery.run", message_id: str = "nobody") -> dict[str, Any]:
    """Return a message that Celery accepts, for a run that does not exist."""
    return {
        "body": encoded(_GOOD_BODY),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": message_id,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": message_id,
            "parent_id": None,
            "argsrepr": "()",
            "kwargsrepr": "{}",
            "origin": "gen1@host",
            "ignore_result": True,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": message_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "q"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": f"tag-{message_id}",
        },
    }


def with_header(name: str, value: Any, **others: Any) -> bytes:
    """Return a good message with one header replaced."""
    message = good(**others)
    message["headers"][name] = value
    return json.dumps(message).encode()


def with_field(name: str, value: Any) -> bytes:
    """Return a good message with one field of its envelope replaced."""
    return json.dumps({**good(), name: value}).encode()


def with_property(name: str, value: Any) -> bytes:
    """Return a good message with one property replaced."""
    message = good()
    message["properties"][name] = value
    return json.dumps(message).encode()


def with_body(body: Any) -> bytes:
    """Return a good message with another decoded body."""
    return with_field("body", encoded(body))


def without(*path: str) -> bytes:
    """Return a good message with one part removed; `path` leads to the part."""
    message = good()
    part = message
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]]
    return json.dumps(message).encode()


def nested(depth: int) -> list[Any]:
    """Return an empty list inside `depth` lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


#: Names of corpus cases, a few of each class: not a message at all, a broken envelope, header,
#: property or body, and an unknown task.
SELECTION = (
    "not JSON",
    "an invalid decimal",
    "a number",
    "headers are a list",
    "a time limit that is a word",
    "no delivery tag",
    "a body that is a number",
    "an unknown task",
)


def corpus() -> dict[str, bytes]:
    """Return every raw message by the name of its case."""
    return {**_no_message(), **_envelopes(), **_headers(), **_properties(), **_bodies()}


def _no_message() -> dict[str, bytes]:
    return {
        "not JSON": b"this is no JSON",
        "empty": b"",
        "null": b"null",
        "a number": b"42",
        "a huge number": b"1" * 10_000,
        "a string": b'"hello"',
        "a list": b"[1, 2, 3]",
        "an empty object": b"{}",
        "true": b"true",
        "NaN": b"NaN",
        "binary": bytes(range(256)),
        "half a message": json.dumps(good()).encode()[:200],
        "two messages": json.dumps(good()).encode() * 2,
        "UTF-16": json.dumps(good()).encode("utf-16"),
        "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07message\x94.",
        "deep nesting": b"[" * 100_000 + b"]" * 100_000,
        "deep nesting of objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "10 MB of junk": b"\xff" * (10 * _MIB),
        "10 MB of a list": b"[" + b"0," * (5 * _MIB) + b"0]",
        "a type that kombu does not know": b'{"__type__": "gun", "__value__": 1}',
        "an invalid date": b'{"__type__": "datetime", "__value__": "never"}',
        "an invalid decimal": b'{"__type__": "decimal", "__value__": "abc"}',
        "bytes that are a number": b'{"__type__": "bytes", "__value__": 5}',
    }


def _envelopes() -> dict[str, bytes]:
    return {
        "headers are a list": with_field("headers", [1, 2]),
        "headers are a word": with_field("headers", "none"),
        "headers are null": with_field("headers", None),
        "no headers": without("headers"),
        "properties are a list": with_field("properties", []),
        "properties are null": with_field("properties", None),
        "no properties": without("properties"),
        "a body that is a number": with_field("body", 17),
        "a body that is a list": with_field("body", [[], {}, {}]),
        "a body that is null": with_field("body", None),
        "no body": without("body"),
        "bad base64": with_field("body", "&&& this is not base64"),
        "base64 of junk": with_field("body", b64encode(bytes(range(256))).decode()),
        "an unknown content type": with_field("content-type", "application/x-gun"),
        "a content type that is a list": with_field("content-type", ["application/json"]),
        "pickle as the content type": with_field("content-type", "application/x-python-serialize"),
        "an unknown encoding": with_field("content-encoding", "klingon"),
        "an encoding that is a number": with_field("content-encoding", 8),
    }


def _headers() -> dict[str, bytes]:
    wild_limits: dict[str, Any] = {
        "a word": "soon",
        "a pair of words": ["soon", "later"],
        "a number": 5,
        "one number": [5],
        "three numbers": [1, 2, 3],
        "negative": [-5, -7],
        "infinite": [float("inf"), None],
        "not a number": [float("nan"), float("nan")],
        "a list in a list": [[1], [2]],
        "10^300": [1e300, 1e300],
        "an object": {"soft": 1},
    }
    wild: dict[str, tuple[str, Any]] = {
        "a task that is a number": ("task", 5),
        "a task that is a list": ("task", ["hermes_celery.run"]),
        "a task that is null": ("task", None),
        "an unknown task": ("task", "no.such.task"),
        "an id that is a list": ("id", [1]),
        "an id that is a number": ("id", 5),
        "an id that is null": ("id", None),
        "an id of 100 KB": ("id", "x" * 100_000),
        "a shadow that is an object": ("shadow", {"a": 1}),
        "an eta that is a word": ("eta", "tomorrow"),
        "an eta that is a list": ("eta", [1]),
        "an eta beyond the calendar": ("eta", "9999-12-31T23:59:59.999999+00:00"),
        "an expiry that is a word": ("expires", "never"),
        "an expiry that is an object": ("expires", {}),
        "retries that are a word": ("retries", "many"),
        "a nesting that is a word": ("replaced_task_nesting", "deep"),
        "errbacks that are a number": ("errbacks", 5),
        "a chord that is a number": ("chord", 5),
        "stamped headers that are a number": ("stamped_headers", 5),
        "stamps that are a list": ("stamps", [1]),
        "stamped headers without stamps": ("stamped_headers", [["a"], {}]),
        "an unknown compression": ("compression", "application/x-gun"),
        "a compression header on an uncompressed body": ("compression", "application/x-gzip"),
        "a compression that is a list": ("compression", ["gzip"]),
        "a session that is a number": ("hermes", 5),
        "a deep header": ("deep", nested(900)),
    }
    return {
        **{
            f"a time limit that is {n}": with_header("timelimit", v) for n, v in wild_limits.items()
        },
        **{name: with_header(header, value) for name, (header, value) in wild.items()},
        "no id": without("headers", "id"),
        "no task": without("headers", "task"),
    }


def _properties() -> dict[str, bytes]:
    wild: dict[str, tuple[str, Any]] = {
        "a delivery tag that is a list": ("delivery_tag", [1]),
        "a delivery tag that is null": ("delivery_tag", None),
        "an unknown body encoding": ("body_encoding", "rot13"),
        "a body encoding that is a number": ("body_encoding", 5),
        "delivery info that is a list": ("delivery_info", [1]),
        "delivery info that is a word": ("delivery_info", "here"),
        "delivery info that is empty": ("delivery_info", {}),
        "a reply address that is a list": ("reply_to", [1]),
    }
    return {
        **{name: with_property(field, value) for name, (field, value) in wild.items()},
        "no delivery tag": without("properties", "delivery_tag"),
    }


def _bodies() -> dict[str, bytes]:
    return {
        "a body that decodes to a number": with_body(5),
        "a body that decodes to null": with_body(None),
        "a body of two parts": with_body([[], {}]),
        "a body of four parts": with_body([[], {}, {}, {}]),
        "args that are a number": with_body([5, {}, {}]),
        "args that are an object": with_body([{"a": 1}, {}, {}]),
        "kwargs that are a list": with_body([["run"], [1], {}]),
        "an embedding that is a number": with_body([["run"], {}, 5]),
        "callbacks that are a number": with_body([["run"], {}, {"callbacks": 5, "errbacks": 5}]),
        "args nested as deep as JSON allows": with_body([nested(900), {}, {}]),
        "a body of an old protocol without a task": json.dumps(
            {**good(), "headers": {}, "body": encoded({"id": "x", "args": [], "kwargs": {}})}
        ).encode(),
        "a body of an old protocol with kwargs that are a list": json.dumps(
            {
                **good(),
                "headers": {},
                "body": encoded(
                    {"task": "hermes_celery.run", "id": "x", "args": [], "kwargs": [1]}
                ),
            }
        ).encode(),
    }
