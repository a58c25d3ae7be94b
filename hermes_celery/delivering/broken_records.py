"""Report stored records that cannot be read, as incidents that end by themselves.

An incident ends when no process has met its record for five minutes.

Each record is one incident, however often a tick or a pass of rescue meets it. A report within a
minute of the last one is not even counted, so a thousand broken records cost a beat nothing.
Reporting never fails its caller: an error is logged.
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
#: A record that was not met for this long counts as repaired or removed.
_OVER_SECONDS = 300.0
#: The most records that are remembered; further ones are ignored.
_MOST = 1000
#: The start of this class's subjects, among incidents of the same kind.
_MARK = "record:"
_LONGEST = 300
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9{}:._@-]")


class BrokenRecords:
    """The broken records that one process has met; an `OnBroken`."""

    def __init__(self, reporter: ReportsTroubles, incidents: Incidents, *, clock: Clock) -> None:
        self._reporter = reporter
        self._incidents = incidents
        self._clock = clock
        #: Incident id to the monotonic time when its record was last met, or last reported.
        self._met: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def __call__(self, job_id: str, key: str, what: str) -> None:
        """Report a broken record: its job's id or "", its key, and what is wrong with it."""
        self._report(job_id, key, what, text=_text(job_id, key, what))

    def hangs(self, job_id: str, what: str) -> None:
        """Report a job whose publishing hangs; `what` is one sentence that names it."""
        text = (
            f"{_shown(what)}; its runs fail until that ends → find what it waits for: a router, a "
            "signal receiver, a lock, or a server that does not answer"
        )
        self._report(job_id, "", what, text=text)

    def _report(self, job_id: str, key: str, what: str, *, text: str) -> None:
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
        """End the incidents of records not met for five minutes; return how many.

        For records that another process met, the time counts from the first call here. Raises
        StoreError.
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
    """Replace characters of a text from Redis that may not be part of an incident id."""
    return _NOT_PLAIN.sub("_", text)[:_LONGEST]


def _shown(text: str) -> str:
    """Shorten a text from Redis and replace unprintable characters, to use it in a sentence."""
    return "".join(c if c.isprintable() else "?" for c in text)[:_LONGEST]
