"""Report jobs that the server lost with its data, until a person acknowledges the loss.

A server without persistence comes back empty after a restart, or a person may have emptied it. The
note on this machine's disk (`store/loss_note.py`) says what the server held. A loss stays an
incident until it is acknowledged, even if declared jobs are stored again meanwhile. After that the
note is updated to what the server holds now. Single jobs whose record vanished are incidents of the
same kind: the sweep reports them, and they end here too.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hermes_celery.core.incidents import Trouble, TroubleKind, incident_id
from hermes_celery.events import event
from hermes_celery.instant import from_ms, iso
from hermes_celery.store.loss_note import LOSS

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.core.incidents import ReportsTroubles
    from hermes_celery.store import Incidents
    from hermes_celery.store.loss_note import LossNote

_log = logging.getLogger(__name__)
_EVERY_SECONDS = 10.0
_MINE = incident_id(TroubleKind.GONE, LOSS)


class LossWatch:
    """The leader's watch for lost jobs."""

    def __init__(
        self, loss_note: LossNote, *, reporter: ReportsTroubles, incidents: Incidents, clock: Clock
    ) -> None:
        self._loss_note = loss_note
        self._reporter = reporter
        self._incidents = incidents
        self._clock = clock
        #: When the next step is due, monotonic seconds.
        self._next_at = float("-inf")

    def begin(self, now_ms: int) -> None:
        """Check for a loss, as a new leader. Raises StoreError."""
        self._loss_note.keep_mark()
        seen = self._loss_note.missing()
        if seen is not None:
            event(_log, "jobs.gone", level=logging.ERROR, jobs=seen.jobs,
                  seen_at=iso(from_ms(seen.at_ms)),
                  why="the server lost its data: turn its append-only file on, or restore a copy",
                  )  # fmt: skip
        self._report_loss(now_ms)
        self._loss_note.keep()

    def step(self, now_ms: int) -> None:
        """Update the note every ten seconds, and end acknowledged incidents. Raises StoreError.

        Called in each pass of the leader's duties. `begin` is not enough: the first jobs may be
        added after a leader began that then leads for months.
        """
        now = self._clock.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + _EVERY_SECONDS
        self._loss_note.keep_mark()
        acked = [
            one for one in self._incidents.of_job("")
            if one.kind is TroubleKind.GONE and one.acked_at
        ]  # fmt: skip
        if any(one.id == _MINE for one in acked):
            self._loss_note.give_up(now_ms)
        self._report_loss(now_ms)
        self._loss_note.keep()
        for one in acked:
            text = f"{one.id}: the lost jobs were given up, or added again"
            self._reporter.over([one], text, now_ms=now_ms)

    def _report_loss(self, now_ms: int) -> None:
        still = self._loss_note.missing_still()
        if still is not None:
            self._reporter.tell(
                Trouble(kind=TroubleKind.GONE, subject=LOSS, text=still.incident_text),
                now_ms=now_ms,
            )
