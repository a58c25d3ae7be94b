"""What is due soon, planned while the beat waits, so that at the instant only the scripts run.

The due index says what comes within the next two seconds, and the tick which jobs come again within
them. Each of those jobs is read, planned for the moment at which it is due, and its message is
built; `take` hands out what its time has come for. That is safe because the script compares: a job
that was edited, paused or removed meanwhile answers `moved`, and the tick, which looks at the index
afterwards, plans it anew. It plans anew as well whatever cannot be foreseen here, and what was
foreseen and is late.

It keeps at most 10,000 jobs; the leader holds no copy of the others.
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
#: How far ahead jobs are planned; 10,000 of them take about a fifth of a second.
HORIZON_MS = 2_000
#: The index is asked again when this much of the horizon is unknown.
_LOOK_EVERY_MS = 500
_MOST = 10_000
#: Jobs per step; a due job waits for one step at most, about 2 ms.
_SLICE = 50
#: A plan that is later than this is made anew: there may be something to catch up.
_FRESH_MS = 1_000


class LookAhead:
    """The coming steps of one leader. Instants are Unix milliseconds, the server's time."""

    def __init__(self, due_index: DueIndex, messages: BuildsMessages) -> None:
        self._due_index = due_index
        self._messages = messages
        self._ids: deque[str] = deque()
        #: A heap: when it is due, a number that differs, and the step.
        self._steps: list[tuple[int, int, Advance]] = []
        self._counter = count()
        self._known_until_ms = 0

    def __len__(self) -> int:
        return len(self._steps)

    def forget(self) -> None:
        """Drop everything: somebody else may lead, or has led."""
        self._ids.clear()
        self._steps.clear()
        self._known_until_ms = 0

    def look(self, now_ms: int) -> bool:
        """Prepare one slice of what is coming; False when there is nothing left to do.

        Raises StoreError.
        """
        if not self._ids and not self._ask(now_ms):
            return False
        ids = [self._ids.popleft() for _ in range(min(_SLICE, len(self._ids)))]
        for row in self._due_index.begin_read(ids)():
            self._prepare(row)
        return True

    def take(self, now_ms: int, *, resumed_ms: int, limit: int) -> list[Advance]:
        """Return at most `limit` due steps; drop those that no longer mean what was planned."""
        taken: list[Advance] = []
        while len(taken) < limit and self._steps and self._steps[0][0] <= now_ms:
            _, _, advance = heappop(self._steps)
            if _still_holds(advance, now_ms=now_ms, resumed_ms=resumed_ms):
                taken.append(advance)
        return taken

    def expect(self, steps: Iterable[Advance]) -> None:
        """Jobs that are being advanced: those that come again so soon are to be prepared again."""
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
        """What cannot be prepared is the tick's to report when it is due."""
        # Whether it is skipped is known only when it is dispatched.
        if not isinstance(row, DueJob) or row.spec.policy.catch_up is CatchUp.SKIP:
            return
        # One that was moved since is found when its time comes nearer.
        if row.next_run_ms > self._known_until_ms or len(self._steps) >= _MOST:
            return
        try:
            (advance,) = steps_of(row, self._messages, now_ms=row.next_run_ms, resumed_ms=0)
        except Exception as error:  # noqa: BLE001 - the tick meets it again, and tells of it
            event(_log, "job.not_prepared", level=logging.DEBUG, job=row.spec.id, why=error)
            return
        if advance.is_late:
            # Nothing of it could be prepared but the plan; the tick bounds how many it builds.
            return
        heappush(self._steps, (row.next_run_ms, next(self._counter), advance))


def _still_holds(advance: Advance, *, now_ms: int, resumed_ms: int) -> bool:
    step = advance.step
    following = step.next_if_skipped_ms
    is_late = now_ms - step.seen_ms > _FRESH_MS or (following is not None and following <= now_ms)
    return not is_late and step.seen_ms > resumed_ms
