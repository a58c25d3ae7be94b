"""HTTP runs: send one request, and keep the response body as the output.

Requests go through `requests-hardened`. It resolves a host once, refuses loopback, private and
link-local addresses and cloud metadata services, and connects to the address it checked. It does so
again at every redirect. Hosts named in HERMES_CELERY_HTTP_ALLOW_PRIVATE are called without that
check. The run's id is sent as `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), the
same for each attempt of one occurrence.

A request cannot be interrupted from outside. So it runs in a thread, which is abandoned when the
run is cancelled or times out, and ends with its socket's timeout at the latest.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hermes_celery.core.job import JobSpec
from hermes_celery.core.output import CAP_BYTES, as_text
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.core.work import HttpCall
from hermes_celery.errors import JobError, error_text
from hermes_celery.masking.output import (
    Redact,
    header_secrets,
    passwords_of,
    redact_text,
    redactor,
    unredacted,
)
from hermes_celery.running.heartbeat import RunningRun
from hermes_celery.session import Session

if TYPE_CHECKING:
    from requests import Response
    from requests.adapters import BaseAdapter
    from requests_hardened import HTTPSession

_CONNECT_SECONDS = 10.0
_TIMEOUT_SECONDS = 60.0
_CHUNK = 16_384
_MAX_REDIRECTS = 10
_POLL_SECONDS = 0.1
_MAX_ERROR = 2_000
_ALL = "on"


class HttpRunner:
    """Sends requests from this machine."""

    def __init__(self, *, allow_private: frozenset[str], redact: bool = True) -> None:
        self._allow_private = allow_private
        self._redact = redact

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        """Send the job's request and return the outcome. Raises JobError."""
        if spec.http is None:
            raise JobError("the job has no HTTP request")
        secrets = (*header_secrets(spec.http.headers), *passwords_of(spec.http.url))
        hide = redactor if self._redact else _hides_nothing
        stop.live.mask_with(hide(secrets))
        exchange = _Exchange(
            spec.http,
            key=session.run_id,
            allow_private=self._allow_private,
            timeout_seconds=spec.timeout_seconds or _TIMEOUT_SECONDS,
            idle_seconds=spec.idle_timeout_seconds,
        )
        exchange.await_end(stop)
        # Cookies that servers set are masked too, because responses may repeat them.
        return exchange.outcome(stop, hide((*secrets, *exchange.cookies)))


class _Exchange:
    """One request and its response, in a thread of its own."""

    def __init__(
        self,
        call: HttpCall,
        *,
        key: str,
        allow_private: frozenset[str],
        timeout_seconds: float,
        idle_seconds: float | None,
    ) -> None:
        self._call = call
        self._key = key
        self._allow_private = allow_private
        self._timeout_seconds = timeout_seconds
        self._idle_seconds = min(idle_seconds or timeout_seconds, timeout_seconds)
        self._done = threading.Event()
        self._abandoned = threading.Event()
        self._body = bytearray()
        self._status = 0
        self._error: str | None = None
        self.cookies: tuple[str, ...] = ()

    def await_end(self, stop: RunningRun) -> None:
        """Send the request; wait until it is done, the time is over, or the run is stopped."""
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._send,), daemon=True)
        deadline = time.monotonic() + self._timeout_seconds
        thread.start()
        while not self._done.wait(_POLL_SECONDS):
            if stop.is_set() or time.monotonic() > deadline:
                self._abandoned.set()
                break

    def outcome(self, stop: RunningRun, redact: Redact) -> Outcome:
        """Return the outcome, with secrets masked."""
        body = redact(bytes(self._body))
        state, error = self._judged(stop, body)
        return Outcome(
            state=state, output=body, error=redact_text(redact, error) if error else None
        )

    def _judged(self, stop: RunningRun, body: bytes) -> tuple[RunState, str | None]:
        call = self._call
        if not self._done.is_set():
            if stop.is_set():
                return RunState.CANCELLED, None
            late = f"{call.method} {call.url} took longer than {self._timeout_seconds:g}s"
            return RunState.TIMED_OUT, late
        if self._error is not None:
            return RunState.FAILED, self._error
        expected = self._status in call.expect if call.expect else 200 <= self._status < 300
        if expected:
            return RunState.SUCCEEDED, None
        wanted = ", ".join(map(str, call.expect)) or "2xx"
        shown = as_text(body[:_MAX_ERROR]).strip()
        why = f"{call.method} {call.url} answered {self._status}, expected {wanted}"
        return RunState.FAILED, f"{why}\n{shown}" if shown else why

    def _send(self) -> None:
        import requests  # 150 ms that workers without HTTP jobs need not pay
        from requests_hardened.ip_filter import InvalidIPAddress  # also slow to import

        try:
            self._exchange()
        except InvalidIPAddress as error:
            self._error = (
                f"{self._call.url} leads to {error}, an address that is not public; to allow it, "
                "name the host in HERMES_CELERY_HTTP_ALLOW_PRIVATE on the workers"
            )
        except requests.RequestException as error:
            self._error = f"{self._call.method} {self._call.url} failed: {_reason(error)}"
        except Exception as error:  # noqa: BLE001 - a thread's exception would be lost
            self._error = error_text(error)
        finally:
            self._done.set()

    def _exchange(self) -> None:
        with _session(self._allow_private) as client:
            try:
                self._request(client)
            finally:
                self.cookies = tuple(cookie.value for cookie in client.cookies if cookie.value)

    def _request(self, client: HTTPSession) -> None:
        call = self._call
        with client.request(
            call.method,
            call.url,
            data=call.body.encode() if call.body is not None else None,
            headers={"Idempotency-Key": self._key, **call.headers},
            timeout=(min(_CONNECT_SECONDS, self._timeout_seconds), self._idle_seconds),
            stream=True,
        ) as response:
            self._status = response.status_code
            self._read(response)

    def _read(self, response: Response) -> None:
        """Read the body up to the cap, and leave the rest unread."""
        for chunk in response.iter_content(_CHUNK):
            room = CAP_BYTES - len(self._body)
            self._body += chunk[:room]
            if len(chunk) > room:
                self._body += b"\n[... cut: output is kept up to 1 MiB ...]\n"
                return
            if self._abandoned.is_set():
                return


def _session(allow_private: frozenset[str]) -> HTTPSession:
    from requests.adapters import HTTPAdapter  # 150 ms, as above
    from requests_hardened import Config, HTTPSession  # also slow to import

    class _Allowing(HTTPSession):  # type: ignore[misc]  # it carries no types
        """Checks every address except those of hosts allowed by name."""

        def get_adapter(self, url: str | bytes) -> BaseAdapter:
            host = (urlsplit(str(url)).hostname or "").lower()
            if _ALL in allow_private or host in allow_private:
                return HTTPAdapter()
            adapter: BaseAdapter = super().get_adapter(url)
            return adapter

    client = _Allowing(
        Config(
            ip_filter_enable=True,
            ip_filter_allow_loopback_ips=False,
            never_redirect=False,
            default_timeout=(_CONNECT_SECONDS, _TIMEOUT_SECONDS),
            user_agent_override="hermes-celery",
        )
    )
    # Otherwise a proxy or a .netrc file would decide where requests and passwords go.
    client.trust_env = False
    client.max_redirects = _MAX_REDIRECTS
    return client


def _hides_nothing(secrets: Iterable[str]) -> Redact:
    return unredacted


def _reason(error: Exception) -> str:
    """Return the innermost cause of an error, which people understand best."""
    reason: BaseException = error
    while (inner := reason.__context__ or reason.__cause__) is not None:
        reason = inner
    return f"{type(error).__name__}: {reason}"
