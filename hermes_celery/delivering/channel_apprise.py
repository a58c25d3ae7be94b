"""Send through apprise: Telegram, Slack, e-mail, JSON and a hundred more (the extra `notify`).

Apprise returns True or False and logs the reason. While it sends, its log lines are collected: they
become the error, without the tokens of the URL, and are not logged. Its own retries and splitting
stay off: attempts are counted in the store, where they survive a restart, and pieces are sent one
by one. Its plugins read responses to the end, so `answer_limits` limits their size.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hermes_celery.delivering.splitting import pieces, utf16_length
from hermes_celery.errors import DeliveryFault, DeliveryRefused
from hermes_celery.guards.answer_limits import limit_requests, limited
from hermes_celery.masking.urls import masked, secrets_of, without

_log = logging.getLogger("apprise")
#: Hermes' own limits, if they are lower than apprise's.
_LIMITS = {"signal": 8000, "matrix": 16_000, "ntfy": 4096}
#: Texts in the errors of servers that were called too often (HTTP 429).
_TOO_MANY = ("429", "too many requests", "rate limit")


class AppriseChannel:
    """One apprise URL."""

    INSTALL = "this target needs apprise; install it: pip install 'apprise>=1.9'"

    def __init__(self, url: str, *, platform: str = "", timeout_seconds: float) -> None:
        self._secrets = secrets_of([url])
        self._plugin = _plugin(url, timeout_seconds)
        self._platform = platform
        # Connecting and reading may each take the whole timeout.
        self.seconds = 2 * timeout_seconds

    @staticmethod
    def is_installed() -> bool:
        """Return whether apprise is installed, without importing it."""
        return importlib.util.find_spec("apprise") is not None

    @classmethod
    def check(cls, url: str) -> None:
        """Raise DeliveryRefused for a URL that apprise cannot use."""
        if not cls.is_installed():
            raise DeliveryRefused(cls.INSTALL)
        _plugin(url, 1.0)

    def pieces(self, text: str) -> list[str]:
        """Split the text into pieces of at most the platform's limit."""
        most = int(self._plugin.body_maxlen) or 32_768
        limit = min(most, _LIMITS.get(self._platform, most))
        is_telegram = self._plugin.__class__.__name__ == "NotifyTelegram"
        return pieces(text, limit=limit, length=utf16_length if is_telegram else len)

    def send(self, piece: str, *, title: str, files: tuple[Path, ...]) -> None:
        """Send one piece; a chat gets no title. Raises DeliveryFault."""
        attach = [str(path) for path in files] or None
        with _said() as lines, limited(self.seconds):
            try:
                sent = self._plugin.notify(
                    body=piece, title="" if self._platform not in ("", "email") else title,
                    attach=_attachments(attach),
                )  # fmt: skip
            except Exception as error:  # noqa: BLE001 - a plugin may raise any exception
                raise DeliveryFault(without(str(error), self._secrets)) from None
        if not sent:
            why = without("; ".join(lines) or "apprise says no more", self._secrets)
            raise DeliveryFault(
                f"delivery error: {why}", slow_down=any(mark in why.lower() for mark in _TOO_MANY)
            )


def _plugin(url: str, timeout_seconds: float) -> Any:
    """Return apprise's object for a URL. Raises DeliveryRefused without the URL's tokens."""
    import apprise  # of the extra `notify`; and 90 ms that most commands need not pay

    # These loggers may log secrets of the URL, so they stay out of the process's log.
    _log.propagate = False
    _log.setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.INFO)
    with _said() as lines:
        try:
            plugin = apprise.Apprise.instantiate(url, suppress_exceptions=True)
        except ValueError:
            # apprise below 1.13.1 raises it for a URL whose host is malformed.
            plugin = None
    if plugin is None:
        why = without("; ".join(lines), secrets_of([url]))
        raise DeliveryRefused(
            f"{masked(url)} is not a URL that apprise can use"
            + (f" ({why})" if why else "")
            + "; see https://github.com/caronc/apprise/wiki for the form"
        )
    limit_requests()
    plugin.socket_connect_timeout = plugin.socket_read_timeout = timeout_seconds
    return plugin


def _attachments(paths: list[str] | None) -> Any:
    if not paths:
        return None
    import apprise  # of the extra `notify`

    return apprise.AppriseAttachment(paths=paths)


class _Lines(logging.Handler):
    """Collects apprise's log lines of one thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        if threading.get_ident() == self._thread:
            self.lines.append(record.getMessage())


@contextmanager
def _said() -> Iterator[list[str]]:
    """Collect what apprise logs in this thread while the block runs."""
    handler = _Lines()
    _log.addHandler(handler)
    try:
        yield handler.lines
    finally:
        _log.removeHandler(handler)
