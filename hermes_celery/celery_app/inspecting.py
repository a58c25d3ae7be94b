"""Asks Celery's workers what they consume, by Celery's remote control.

Nothing is decided here. A worker that does not answer (busy under `solo`, or without remote
control) counts as absent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

#: Seconds to wait for answers; the number of workers is unknown.
_TIMEOUT_SECONDS = 1.0


class Inspection:
    """Asks all workers of an app's broker, of any project."""

    def __init__(self, app: Celery, *, run_task: str) -> None:
        """`run_task` is the name of the task that only workers with our hooks have."""
        self._app = app
        self._run_task = run_task

    def queues(self) -> list[tuple[str, set[str]]]:
        """Return each answer: a worker and the queues that it consumes.

        Several workers may have the same name. Raises the errors of Celery and Redis.
        """
        return [
            (worker, {str(queue["name"]) for queue in queues if "name" in queue})
            for worker, queues in self._ask("active_queues")
            if isinstance(queues, list)
        ]

    def with_hooks(self, workers: Collection[str]) -> set[str]:
        """Return the given workers that have our tasks.

        Raises the errors of Celery and Redis.
        """
        return {
            worker
            for worker, tasks in self._ask("registered", destination=sorted(workers))
            if isinstance(tasks, list)
            and any(str(t).split()[:1] == [self._run_task] for t in tasks)
        }

    def _ask(self, question: str, **options: Any) -> Iterator[tuple[str, Any]]:
        # A connection of its own: this runs in a thread, while the beat uses the app's others.
        with self._app.connection_for_write() as connection:
            answers = self._app.control.broadcast(
                question, reply=True, timeout=_TIMEOUT_SECONDS, connection=connection, **options
            )
        for answer in answers or ():
            yield from answer.items()
