"""What the server lost with its memory: told by the leader until somebody acknowledges it.

A server without persistence comes back empty, or somebody emptied it. The note on this machine's
disk (`loss_note.py`) knows what was there. That is an incident until somebody acknowledges it,
whatever is declared anew meanwhile: then what is there now is what is remembered. Single jobs whose
record vanished are incidents of the same kind, which the sweep tells; they end here too.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hermes_celery.core.incidents import Trouble, TroubleKind, incident_id
from hermes_celery.events import RateLimitedLog, event
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
    """A leader's part in that."""

    def __init__(
        self, loss_note: LossNote, *, reporter: ReportsTroubles, incidents: Incidents, clock: Clock
    ) -> None:
        self._loss_note = loss_note
        self._reporter = reporter
        self._incidents = incidents
        self._clock = clock
        self._seldom = RateLimitedLog(_EVERY_SECONDS)

    def begin(self, now_ms: int) -> None:
        """Look for a loss, as a new leader. Raises StoreError."""
        self._loss_note.keep_mark()
        seen = self._loss_note.missing()
        if seen is not None:
            event(_log, "jobs.gone", level=logging.ERROR, jobs=seen.jobs,
                  seen_at=iso(from_ms(seen.at_ms)),
                  why="the server lost its memory: turn its append-only file on, or restore a copy",
                  )  # fmt: skip
        self._tell(now_ms)
        self._loss_note.keep()

    def step(self, now_ms: int) -> None:
        """Remember what is there, every ten seconds, in passes of rescue. Raises StoreError.

        Also while one beat leads for months: the first jobs may come after it began.
        """
        if not self._seldom.may_say(self._clock.monotonic()):
            return
        self._loss_note.keep_mark()
        acked = [
            one for one in self._incidents.of_job("")
            if one.kind is TroubleKind.GONE and one.acked_at
        ]  # fmt: skip
        if any(one.id == _MINE for one in acked):
            self._loss_note.give_up(now_ms)
        self._tell(now_ms)
        self._loss_note.keep()
        for one in acked:
            text = f"{one.id}: the jobs that were gone are given up, or were added again"
            self._reporter.over([one], text, now_ms=now_ms)

    def _tell(self, now_ms: int) -> None:
        still = self._loss_note.missing_still()
        if still is not None:
            self._reporter.tell(
                Trouble(kind=TroubleKind.GONE, subject=LOSS, text=still.told), now_ms=now_ms
            )
