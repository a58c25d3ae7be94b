"""A worker's main loop is told that a slot is free, whatever its pool.

With `worker_disable_prefetch` a worker asks for a message only when a slot is free. Its main loop
sees that when it goes round: under `prefork` the pool's results wake it, under `solo` it performs
the task itself. Under `threads`, `gevent` and `eventlet` nothing wakes it, so that it asks when the
server's last answer times out: some two runs a second, whatever the tasks take. So after each task,
when Celery has counted it as over, the loop is woken through a pipe.

A worker that prefetches (the setting is off) asks without that, and is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import Celery, bootsteps
from kombu.utils.eventio import READ

_READ_BYTES = 4096
#: What a pool calls at the end of a task; each takes its slot's task off Celery's books.
_ENDS = ("callback", "timeout_callback")


class WakeupPipe:
    """A pipe that wakes one loop; to ring is safe from every thread and greenlet."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)

    def ring(self) -> None:
        """Wake the loop, now or as soon as it waits."""
        # A full pipe wakes it anyway; a closed one belongs to a worker that ends.
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._write, b"!")

    def hear(self) -> None:
        """Take all there is, so that the loop waits again."""
        with suppress(BlockingIOError):
            while len(os.read(self._read, _READ_BYTES)) == _READ_BYTES:
                pass

    def join(self, consumer: Any) -> None:
        """Have a consumer's loop wait for it, too; again after each reconnection."""
        if consumer.hub is not None:
            consumer.hub.add_reader(self._read, self.hear)
            return
        # Celery's blocking loop knows no readers but the sockets of kombu's poller.
        cycle = getattr(consumer.connection.transport, "cycle", None)
        if cycle is not None:
            cycle.poller.register(self._read, READ)
            cycle.handle_event = self._hearing(cycle.handle_event)

    def _hearing(self, handle: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
        def hear_or_handle(fileno: int, event: int) -> Any:
            if fileno != self._read:
                return handle(fileno, event)
            self.hear()
            # As a message: without any, kombu looks for others to restore, some round trips each.
            return True

        return hear_or_handle

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
    """Have the workers of an app, which are still to start, take what they have room for."""
    alarms: list[WakeupPipe] = []

    class FollowPool(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery carries no types
        """Before the consumer makes what it hands to the pool."""

        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            """The pool is there."""
            if worker.app.conf.worker_disable_prefetch and _is_silent(worker.pool):
                alarms.append(WakeupPipe())
                alarms[-1].follow(worker.pool)

    class JoinLoop(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery carries no types
        """Each time that the consumer has a connection."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            """The channel is there, and the loop begins soon."""
            for alarm in alarms:
                alarm.join(consumer)

    app.steps["worker"].add(FollowPool)
    app.steps["consumer"].add(JoinLoop)


def _is_silent(pool: Any) -> bool:
    """Whether a pool's tasks end without waking the worker's loop."""
    kind = type(pool).__module__.rpartition(".")[2]
    return kind not in ("prefork", "solo")
