"""Limit the size and the time of a server's answers.

Deliveries use libraries that read an answer to its end, however large or slow it is. `limited`
bounds both for the code inside it, and only there. It does so in two places: at sockets that are
read through a file (HTTP and SMTP clients do), and at bodies that `requests` keeps in memory, where
a small answer may unpack to a large one. Cutting off an answer is not an error: the sender needs
only the status, and an error would send the message again.
"""

from __future__ import annotations

import io
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests import Response

#: Bytes of one answer's body, after unpacking.
BODY_BYTES = 64 * 1024
#: Bytes of all answers to one message, headers included; there may be thirty redirects.
ALL_BYTES = 1024 * 1024
_CHUNK = 8192
#: The value of `wbits` with which zlib detects gzip or zlib by itself.
_ANY_FORMAT = 47
_limit: ContextVar[_Limit | None] = ContextVar("hermes_celery_answer_limit", default=None)


class _Limit:
    """The time and bytes that are left for the answers to one message."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self.bytes = ALL_BYTES

    def seconds(self) -> float:
        """Return the seconds that are left. Raises TimeoutError if there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer took too long")
        return left


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Limit what this block reads of answers.

    In the block, a socket that is read through a file raises TimeoutError when the time is over,
    and ends after `ALL_BYTES`. The body of a `requests` response ends after `BODY_BYTES`.
    """
    _limit_files()
    token = _limit.set(_Limit(seconds))
    try:
        yield
    finally:
        _limit.reset(token)


def limit_requests() -> None:
    """Limit the bodies of `requests` too; called by code that sends with it."""
    _limit_bodies()


class _LimitedFile(io.RawIOBase):
    """Reads from a socket until its limit is reached."""

    def __init__(self, raw: Any, sock: socket.socket, limit: _Limit) -> None:
        self._raw = raw
        self._sock = sock
        self._limit = limit

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def readinto(self, buffer: Any) -> int | None:
        left = self._limit.seconds()
        if self._limit.bytes <= 0:
            return 0
        view = memoryview(buffer)[: self._limit.bytes]
        timeout = self._sock.gettimeout()
        self._sock.settimeout(left if timeout is None else min(timeout, left))
        try:
            count: int | None = self._raw.readinto(view)
        finally:
            self._sock.settimeout(timeout)
        self._limit.bytes -= count or 0
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


@cache
def _limit_files() -> None:
    # All clients of the standard library and of urllib3 read through this one method.
    make = socket.socket.makefile

    @wraps(make)
    def makefile(self: socket.socket, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        limit = _limit.get()
        if limit is None or mode != "rb":
            return make(self, mode, *args, **kwargs)  # type: ignore[call-overload]
        return io.BufferedReader(_LimitedFile(make(self, "rb", 0), self, limit))

    socket.socket.makefile = makefile  # type: ignore[method-assign]


@cache
def _limit_bodies() -> None:
    from requests.adapters import HTTPAdapter  # takes 150 ms; pings need only the other limit

    send = HTTPAdapter.send

    @wraps(send)
    def send_and_cut(self: HTTPAdapter, *args: Any, **kwargs: Any) -> Response:
        response = send(self, *args, **kwargs)
        if _limit.get() is not None:
            _cut(response)
        return response

    HTTPAdapter.send = send_and_cut  # type: ignore[method-assign]


def _cut(response: Response) -> None:
    """Read only the beginning of a body, and store it as `requests` stores a whole body.

    Raises requests.ConnectionError.
    """
    from requests import ConnectionError as Disconnected  # already imported by the caller
    from urllib3.exceptions import HTTPError  # already imported, too

    try:
        body = _beginning(lambda: response.raw.read(_CHUNK, decode_content=False))
    except (HTTPError, OSError) as error:
        raise Disconnected(error, request=response.request) from None
    finally:
        response.raw.close()
    response._content = _unpacked(body, response.headers.get("Content-Encoding", ""))
    response._content_consumed = True  # type: ignore[attr-defined]


def _beginning(read: Callable[[], bytes]) -> bytes:
    body = b""
    while len(body) < BODY_BYTES:
        part = read()
        if not part:
            break
        body += part
    return body[:BODY_BYTES]


def _unpacked(body: bytes, encoding: str) -> bytes:
    """Return the unpacked beginning of a body, or the body itself if it cannot be unpacked."""
    if encoding.lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    for form in (_ANY_FORMAT, -zlib.MAX_WBITS):
        try:
            return zlib.decompressobj(form).decompress(body, BODY_BYTES)
        except zlib.error:
            continue
    return body
