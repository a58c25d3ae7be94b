"""Asking Celery's workers what they consume, by Celery's own remote control.

Nothing here decides; a worker that does not answer (busy under `solo`, without remote control) is
as one that is not there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

#: How long answers are waited for; how many there will be is not known.
_TIMEOUT_SECONDS = 1.0


class Inspection:
    """What all workers of an app's broker say, whoever's they are."""

    def __init__(self, app: Celery, *, run_task: str) -> None:
        """`run_task` is the name of the task that only workers with our hooks have."""
        self._app = app
        self._run_task = run_task

    def queues(self) -> list[tuple[str, set[str]]]:
        """Each answer: a worker and the queues that it consumes; several may have one name.

        Raises what Celery and Redis raise.
        """
        return [
            (worker, {str(queue["name"]) for queue in queues if "name" in queue})
            for worker, queues in self._ask("active_queues")
            if isinstance(queues, list)
        ]

    def with_hooks(self, workers: Collection[str]) -> set[str]:
        """Which of some workers have our tasks. Raises what Celery and Redis raise."""
        return {
            worker
            for worker, tasks in self._ask("registered", destination=sorted(workers))
            if isinstance(tasks, list)
            and any(str(t).split()[:1] == [self._run_task] for t in tasks)
        }

    def _ask(self, question: str, **options: Any) -> Iterator[tuple[str, Any]]:
        # A connection of its own: this is a thread, and the beat goes on meanwhile.
        with self._app.connection_for_write() as connection:
            answers = self._app.control.broadcast(
                question, reply=True, timeout=_TIMEOUT_SECONDS, connection=connection, **options
            )
        for answer in answers or ():
            yield from answer.items()
