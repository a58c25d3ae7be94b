"""Which stored records cannot be read, and does anybody still meet them?

Each becomes an incident, and that ends when nobody has met it for five minutes.

One of a kind is one incident, however often a tick or a pass of rescue stumbles over it: what was
told within the last minute is not even counted again, so that a thousand bad records cost a beat
nothing. Telling never fails whoever stumbled: a trouble while it is told is logged.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from hermes_celery.core.incidents import Trouble, TroubleKind, incident_id
from hermes_celery.core.job import is_job_id
from hermes_celery.errors import StoreError
from hermes_celery.events import event

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.core.incidents import ReportsTroubles
    from hermes_celery.store import Incidents

_log = logging.getLogger(__name__)
_COUNT_EVERY_SECONDS = 60.0
#: Nobody stumbled over it for so long: it was mended, or removed.
_OVER_SECONDS = 300.0
#: So many are remembered; what comes beyond them is logged.
_MOST = 1000
#: Incidents of ours, among those of the same kind.
_MARK = "record:"
_LONGEST = 300
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9{}:._@-]")


class BrokenRecords:
    """One process's troubles with records; an `OnBroken`."""

    def __init__(self, reporter: ReportsTroubles, incidents: Incidents, *, clock: Clock) -> None:
        self._reporter = reporter
        self._incidents = incidents
        self._clock = clock
        #: Incident id -> when somebody stumbled over it last, and when it was told, monotonic.
        self._met: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def __call__(self, job_id: str, key: str, what: str) -> None:
        """Tell of a record: its job's id or "", its key, and what is wrong with it."""
        self._tell(job_id, key, what, text=_text(job_id, key, what))

    def hangs(self, job_id: str, what: str) -> None:
        """Tell of a job whose publishing hangs; `what` names it."""
        text = (
            f"{_shown(what)}; its runs fail until that ends → look what it waits for: a router, a "
            "signal's receiver, a lock, a server that does not answer"
        )
        self._tell(job_id, "", what, text=text)

    def _tell(self, job_id: str, key: str, what: str, *, text: str) -> None:
        now = self._clock.monotonic()
        trouble = Trouble(
            kind=TroubleKind.BROKEN,
            subject=_MARK + _plain(key or job_id),
            text=text,
            job_id=job_id if is_job_id(job_id) else "",
        )
        incident = trouble.incident_id
        is_new = incident not in self._met
        if is_new and len(self._met) >= _MOST:
            return
        self._met[incident] = now
        if not is_new and now - self._told.get(incident, -_OVER_SECONDS) < _COUNT_EVERY_SECONDS:
            return
        self._told[incident] = now
        event(_log, "record.broken", level=logging.ERROR, job=job_id or None, key=key, what=what)
        try:
            self._reporter.tell(trouble, now_ms=self._clock.now_ms())
        except StoreError as error:
            self._told.pop(incident, None)
            event(_log, "record.not_told", level=logging.WARNING, key=key, why=error)

    def end_those_over(self, now_ms: int) -> int:
        """End the incidents of records that nobody met for five minutes; returns how many.

        Those that another process met count from the first look here. Raises StoreError.
        """
        now, over = self._clock.monotonic(), []
        for incident in self._incidents.open(limit=_MOST):
            if not incident.id.startswith(incident_id(TroubleKind.BROKEN, _MARK)):
                continue
            if now - self._met.setdefault(incident.id, now) >= _OVER_SECONDS:
                over.append(incident)
                self._met.pop(incident.id)
                self._told.pop(incident.id, None)
        for incident in over:
            text = f"no more trouble with {incident.id.partition(_MARK)[2]}"
            self._reporter.over([incident], text, now_ms=now_ms)
        return len(over)


def _text(job_id: str, key: str, what: str) -> str:
    advice = "hermes-celery fsck --repair"
    trouble = _shown(f"{key} {what}".strip())
    if is_job_id(job_id):
        return f"job {job_id}: {trouble} → hermes-celery remove {job_id}, or {advice}"
    return f"{trouble} → {advice}"


def _plain(text: str) -> str:
    """A text from Redis as a part of ids, which stand in keys, messages and commands."""
    return _NOT_PLAIN.sub("_", text)[:_LONGEST]


def _shown(text: str) -> str:
    """A text from Redis as a part of a sentence: short, and fit to be shown."""
    return "".join(c if c.isprintable() else "?" for c in text)[:_LONGEST]
