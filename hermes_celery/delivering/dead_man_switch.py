"""Ping dead-man switches: services outside that raise an alarm when no more pings come.

The protocol is healthchecks.io's (https://healthchecks.io/docs/http_api/). A URL is requested when
a run starts (`/start`), when it succeeded (the URL itself) and when it failed (its exit code, or
`/fail`). `rid` connects a run's start to its end. The ping at a run's end is sent like a delivery,
and retried. The ping at a start and the scheduler's own ping must not delay anything: `Pinger`
sends each once, from a thread.
"""

from __future__ import annotations

import http.client
import logging
import queue
import threading
import uuid
from enum import StrEnum
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen

import msgspec

from hermes_celery.core.work import checked_url
from hermes_celery.errors import DeliveryFault, JobError
from hermes_celery.events import event
from hermes_celery.guards.answer_limits import limited
from hermes_celery.masking.urls import masked_path

_log = logging.getLogger(__name__)
#: healthchecks.io keeps the first 100 kB.
_MAX_BODY = 100_000
_WAITING = 1000
#: The interval of the scheduler's own pings.
_EVERY_MS = 60_000


class PingSignal(StrEnum):
    """The meaning of a ping, as the end of its path."""

    START = "start"
    SUCCESS = ""
    FAIL = "fail"


class Ping(msgspec.Struct, frozen=True, kw_only=True):
    """One ping request."""

    url: str
    signal: PingSignal
    #: The id of the run, which connects its start to its end.
    run_id: str = ""
    exit_code: int | None = None
    body: bytes = b""

    @property
    def address(self) -> str:
        """The URL to request."""
        parts = urlsplit(self.url)
        end = self.signal.value
        if (
            self.signal is PingSignal.FAIL
            and self.exit_code is not None
            and 0 < self.exit_code < 256
        ):
            end = str(self.exit_code)
        path = parts.path.rstrip("/") + (f"/{end}" if end else "")
        rid = f"rid={uuid.uuid5(uuid.NAMESPACE_URL, self.run_id)}" if self.run_id else ""
        return urlunsplit(
            parts._replace(path=path, query="&".join(filter(None, (parts.query, rid))))
        )


def check_url(url: str) -> None:
    """Raise JobError for an invalid http(s) URL; the message does not show the URL."""
    try:
        checked_url(url)
    except ValueError as error:
        raise JobError(
            f"the ping URL must be an http(s) URL, such as https://hc-ping.com/UUID; {error}"
        ) from None


def send(ping: Ping, *, timeout_seconds: float) -> None:
    """Request the URL. Raises DeliveryFault."""
    where = masked_path(ping.url)
    try:
        request = Request(ping.address, data=ping.body[-_MAX_BODY:], method="POST")
        request.add_header("User-Agent", "hermes-celery")
        with limited(timeout_seconds), urlopen(request, timeout=timeout_seconds):
            return
    except HTTPError as error:
        with error:
            raise DeliveryFault(
                f"delivery error: {where} answered {error.code}", slow_down=error.code == 429
            ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DeliveryFault(f"delivery to {where} failed: {type(error).__name__}") from None


class Pinger:
    """Sends pings from one thread that starts with the first ping; never waits, never raises."""

    def __init__(self, *, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._waiting: queue.Queue[Ping] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def send(self, ping: Ping) -> None:
        """Queue a ping; drop it if a thousand pings are waiting."""
        try:
            self._waiting.put_nowait(ping)
        except queue.Full:
            event(_log, "ping.dropped", level=logging.WARNING, to=masked_path(ping.url))
            return
        # A thread does not survive a fork, so an inherited one is dead.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._loop, name="hermes-ping", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        while True:
            ping = self._waiting.get()
            try:
                send(ping, timeout_seconds=self._timeout_seconds)
            except DeliveryFault as error:
                event(_log, "ping.failed", level=logging.WARNING, why=error)


class SchedulerSwitch:
    """The scheduler's own dead-man switch, pinged once a minute by the leading beat."""

    def __init__(self, url: str, *, pinger: Pinger) -> None:
        self._url = url
        self._pinger = pinger
        self._pinged_ms = 0

    def ping(self, now_ms: int) -> None:
        """Send a ping, unless the last one was sent less than a minute ago."""
        if now_ms - self._pinged_ms >= _EVERY_MS:
            self._pinged_ms = now_ms
            self._pinger.send(Ping(url=self._url, signal=PingSignal.SUCCESS))
