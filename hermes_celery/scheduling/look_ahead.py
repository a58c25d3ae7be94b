"""Plan upcoming jobs while the beat waits, so that at the due instant only the scripts run.

The due index names the jobs of the next two seconds; the tick names jobs that are due again within
them. Each of these jobs is read, planned for its due instant, and its message is built. `take`
returns the steps that are due. This is safe because the script compares: a job that was edited,
paused or removed meanwhile answers `moved`. The tick reads the index afterwards and plans such a
job again. It also plans what cannot be prepared here, and what was prepared but is late.

At most 10,000 jobs are prepared; the leader holds no copy of the others.
"""

from __future__ import annotations

import logging
from collections import deque
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

from hermes_celery.core.planning import DueJob
from hermes_celery.core.policy import CatchUp
from hermes_celery.events import event
from hermes_celery.scheduling.planned_runs import BuildsMessages, steps_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hermes_celery.store import Advance, BrokenJob, DueIndex

_log = logging.getLogger(__name__)
#: Jobs are planned this far ahead; 10,000 of them take about a fifth of a second.
HORIZON_MS = 2_000
#: The index is read again when this much of the horizon has not been read.
_LOOK_EVERY_MS = 500
_MOST = 10_000
#: Jobs per step; a due job waits for one step at most, about 2 ms.
_SLICE = 50
#: The tick re-plans a step that is later than this: there may be occurrences to catch up.
_FRESH_MS = 1_000


class LookAhead:
    """The upcoming steps of one leader. Instants are Unix milliseconds, the server's time."""

    def __init__(self, due_index: DueIndex, messages: BuildsMessages) -> None:
        self._due_index = due_index
        self._messages = messages
        self._ids: deque[str] = deque()
        #: A heap of due instant, tie-breaking number and step.
        self._steps: list[tuple[int, int, Advance]] = []
        self._counter = count()
        self._known_until_ms = 0

    def __len__(self) -> int:
        return len(self._steps)

    def forget(self) -> None:
        """Drop all steps: another beat may lead, or may have led."""
        self._ids.clear()
        self._steps.clear()
        self._known_until_ms = 0

    def look(self, now_ms: int) -> bool:
        """Prepare one slice of the upcoming jobs; return False when there is nothing to prepare.

        Raises StoreError.
        """
        if not self._ids and not self._ask(now_ms):
            return False
        ids = [self._ids.popleft() for _ in range(min(_SLICE, len(self._ids)))]
        for row in self._due_index.begin_read(ids)():
            self._prepare(row)
        return True

    def take(self, now_ms: int, *, resumed_ms: int, limit: int) -> list[Advance]:
        """Return at most `limit` due steps; drop steps whose plan no longer holds."""
        taken: list[Advance] = []
        while len(taken) < limit and self._steps and self._steps[0][0] <= now_ms:
            _, _, advance = heappop(self._steps)
            if _still_holds(advance, now_ms=now_ms, resumed_ms=resumed_ms):
                taken.append(advance)
        return taken

    def expect(self, steps: Iterable[Advance]) -> None:
        """Note the advanced jobs that are due again within the horizon, to prepare them."""
        for advance in steps:
            next_ms = advance.step.next_run_ms
            is_soon = next_ms is not None and next_ms <= self._known_until_ms
            if is_soon and len(self._ids) < _MOST:
                self._ids.append(advance.due.spec.id)

    def _ask(self, now_ms: int) -> bool:
        until_ms, room = now_ms + HORIZON_MS, _MOST - len(self._steps)
        if until_ms - self._known_until_ms < _LOOK_EVERY_MS or room <= 0:
            return False
        after_ms = max(self._known_until_ms, now_ms)
        self._ids.extend(self._due_index.due_ids(until_ms, limit=room, after_ms=after_ms))
        self._known_until_ms = until_ms
        return bool(self._ids)

    def _prepare(self, row: DueJob | BrokenJob) -> None:
        """Plan one job and build its message; leave every fault to the tick, which reports it."""
        # A job with catch-up SKIP is skipped or not depending on when it is dispatched.
        if not isinstance(row, DueJob) or row.spec.policy.catch_up is CatchUp.SKIP:
            return
        # A job that was moved beyond the horizon is found again when it comes nearer.
        if row.next_run_ms > self._known_until_ms or len(self._steps) >= _MOST:
            return
        try:
            (advance,) = steps_of(row, self._messages, now_ms=row.next_run_ms, resumed_ms=0)
        except Exception as error:  # noqa: BLE001 - the tick meets the error again and reports it
            event(_log, "job.not_prepared", level=logging.DEBUG, job=row.spec.id, why=error)
            return
        if advance.is_late:
            # Its message is built after the run is admitted, and the tick limits how many.
            return
        heappush(self._steps, (row.next_run_ms, next(self._counter), advance))


def _still_holds(advance: Advance, *, now_ms: int, resumed_ms: int) -> bool:
    step = advance.step
    following = step.next_if_skipped_ms
    is_late = now_ms - step.seen_ms > _FRESH_MS or (following is not None and following <= now_ms)
    return not is_late and step.seen_ms > resumed_ms
