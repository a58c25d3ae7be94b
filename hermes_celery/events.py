"""Write log events: a name and fields, one line per fact, through the standard `logging`.

A text line reads `run.finished run=... state=failed`. With HERMES_CELERY_LOG=json every line of the
process is one JSON object.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec


def event(
    log: logging.Logger,
    name: str,
    *,
    level: int = logging.INFO,
    exc_info: BaseException | None = None,
    **fields: object,
) -> None:
    """Log one event, without the fields that are None. `exc_info` adds its traceback."""
    if not log.isEnabledFor(level):
        return
    shown = {key: value for key, value in fields.items() if value is not None}
    text = " ".join([name, *(f"{key}={_quoted(value)}" for key, value in shown.items())])
    log.log(level, "%s", text, exc_info=exc_info, extra={"event": name, "fields": shown})


def _quoted(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and " " not in text else repr(text)


class JsonFormatter(logging.Formatter):
    """Formats each record as one JSON object in one line.

    Its keys are time (UTC, ISO 8601), level, logger, event or message, and the event's fields.
    """

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        name = getattr(record, "event", None)
        if name is None:
            line["message"] = record.getMessage()
        else:
            line["event"] = name
            line |= {key: str(value) for key, value in getattr(record, "fields", {}).items()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class RateLimitedLog:
    """Lets a repeated complaint through at once, and then once every `seconds`."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._said_at: float | None = None

    def may_say(self, now: float) -> bool:
        """Return whether to log the complaint now; `now` is monotonic, in seconds."""
        if self._said_at is not None and now - self._said_at < self._seconds:
            return False
        self._said_at = now
        return True

    def over(self) -> bool:
        """Forget the complaint, because its cause is gone. Return whether there was one."""
        was, self._said_at = self._said_at is not None, None
        return was
