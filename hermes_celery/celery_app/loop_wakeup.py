"""Wakes a worker's main loop when a slot becomes free, under every pool.

With `worker_disable_prefetch` a worker asks for a message only when a slot is free, and its main
loop notices that only when it goes round. Under `prefork` the pool's results wake the loop; under
`solo` the loop performs the task itself. Under `threads`, `gevent` and `eventlet` nothing wakes it:
it asks again only when the server's last answer times out, which makes about two runs a second,
however short the tasks. So after each task, when Celery has counted it as done, a pipe wakes the
loop.

A worker that prefetches (the setting is off) does not need this and is not changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import Celery, bootsteps
from kombu.utils.eventio import READ

_READ_BYTES = 4096
#: The callbacks of a pool at the end of a task; after each, Celery counts the slot as free.
_ENDS = ("callback", "timeout_callback")


class WakeupPipe:
    """A pipe that wakes one loop; `ring` is safe from every thread and greenlet."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)

    def ring(self) -> None:
        """Wake the loop, now or as soon as it waits."""
        # A full pipe wakes the loop anyway; a closed pipe belongs to a worker that is ending.
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._write, b"!")

    def empty(self) -> None:
        """Empty the pipe, so that the loop waits again."""
        with suppress(BlockingIOError):
            while len(os.read(self._read, _READ_BYTES)) == _READ_BYTES:
                pass

    def join(self, consumer: Any) -> None:
        """Make a consumer's loop wait for the pipe, too; called again after each reconnection."""
        if consumer.hub is not None:
            consumer.hub.add_reader(self._read, self.empty)
            return
        # Celery's blocking loop waits only for the sockets of kombu's poller.
        cycle = getattr(consumer.connection.transport, "cycle", None)
        if cycle is not None:
            cycle.poller.register(self._read, READ)
            cycle.handle_event = self._emptying(cycle.handle_event)

    def _emptying(self, handle: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
        def empty_or_handle(fileno: int, event: int) -> Any:
            if fileno != self._read:
                return handle(fileno, event)
            self.empty()
            # True means that a message came. Otherwise kombu searches for messages to restore, at
            # several round trips each time.
            return True

        return empty_or_handle

    def follow(self, pool: Any) -> None:
        """Ring after each task that a pool has ended."""
        apply_async = pool.apply_async

        def apply_and_ring(target: Any, *args: Any, **options: Any) -> Any:
            for name in _ENDS:
                if options.get(name) is not None:
                    options[name] = self._ringing(options[name])
            return apply_async(target, *args, **options)

        pool.apply_async = apply_and_ring

    def _ringing(self, end: Callable[..., Any]) -> Callable[..., Any]:
        def end_and_ring(*args: Any, **options: Any) -> Any:
            try:
                return end(*args, **options)
            finally:
                self.ring()

        return end_and_ring


def wake(app: Celery) -> None:
    """Make the workers that this app starts ask for a message as soon as a slot is free."""
    pipes: list[WakeupPipe] = []

    class FollowPool(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery carries no types
        """Follows the pool before the consumer builds what it passes to the pool."""

        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            """Follow the pool, which exists now."""
            if worker.app.conf.worker_disable_prefetch and _is_silent(worker.pool):
                pipes.append(WakeupPipe())
                pipes[-1].follow(worker.pool)

    class JoinLoop(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery carries no types
        """Joins the consumer's loop each time the consumer has a connection."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            """Join the loop, which starts soon."""
            for pipe in pipes:
                pipe.join(consumer)

    app.steps["worker"].add(FollowPool)
    app.steps["consumer"].add(JoinLoop)


def _is_silent(pool: Any) -> bool:
    """Return whether a pool's tasks end without waking the worker's loop."""
    kind = type(pool).__module__.rpartition(".")[2]
    return kind not in ("prefork", "solo")
