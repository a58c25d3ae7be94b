"""Log events: a name and fields, one line per fact, through the standard `logging`.

As text the line reads `run.finished run=... state=failed`; with HERMES_CELERY_LOG=json every line
of the process is one JSON object.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec


def event(log: logging.Logger, name: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Write one event; a field that is None is left out."""
    if not log.isEnabledFor(level):
        return
    shown = {key: value for key, value in fields.items() if value is not None}
    text = " ".join([name, *(f"{key}={_quoted(value)}" for key, value in shown.items())])
    log.log(level, "%s", text, extra={"event": name, "fields": shown})


def _quoted(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and " " not in text else repr(text)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC, ISO 8601), level, logger, event or message, fields."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
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
