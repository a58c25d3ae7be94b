"""Proof that a worker's main loop consumes: it asked the server for messages and was answered.

kombu asks with a BRPOP that names every queue and that comes back within a second, with a message
or without. Each time it comes back, whatever the pool, that is noted for the queues it named; so is
each message, for the queue that it was taken from. That costs a reading of the clock.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty
from typing import Any

from celery import Celery, bootsteps
from celery.worker import state

from hermes_celery.process.disk import disk_of
from hermes_celery.store import WorkerSign
from hermes_celery.store.queue_load import base_of
from hermes_celery.store.worker_signs import Look


class ConsumingProof:
    """What one worker's main loop has proved; instants are those of the monotonic clock."""

    def __init__(self) -> None:
        #: By queue: when the loop last asked for its messages and was answered.
        self.asked: dict[str, float] = {}
        #: By queue: when a message was last taken from it.
        self.taken: dict[str, float] = {}
        #: By queue: what its lists are called where the app's transport options change that.
        self.aliases: dict[str, set[str]] = {}
        self._is_full: Callable[[], bool] = lambda: False

    def follow(self, consumer: Any) -> None:
        """Watch what a Celery consumer's channel does; again after each reconnection."""
        channel = consumer.task_consumer.channel
        self._is_full = _fullness(consumer, channel)
        now = time.monotonic()
        names = [str(queue.name) for queue in consumer.task_consumer.queues]
        self.asked = {name: self.asked.get(name, now) for name in names}
        self.aliases = {name: _aliases(channel, name) for name in names}
        handlers = getattr(channel, "handlers", None)
        if handlers is not None and "BRPOP" in handlers:
            handlers["BRPOP"] = self._asking(handlers["BRPOP"], channel)
            transport = channel.connection
            transport._deliver = self._taking(transport._deliver, channel)

    def is_full(self) -> bool:
        """Whether all slots are taken, so that the loop asks for nothing; that counts as asking.

        Else a loop whose slot became free a moment ago would look like one that never asks.
        """
        if not self._is_full():
            return False
        self.asked = dict.fromkeys(self.asked, time.monotonic())
        return True

    def _asking(self, read: Callable[..., Any], channel: Any) -> Callable[..., Any]:
        def read_and_note(**options: Any) -> Any:
            try:
                answer = read(**options)
            except Empty:
                self._note_asked(channel)
                raise
            self._note_asked(channel)
            return answer

        return read_and_note

    def _note_asked(self, channel: Any) -> None:
        now = time.monotonic()
        # Whoever reads it from another thread sees the old value or this one.
        self.asked = {str(queue): now for queue in channel.active_queues}

    def _taking(
        self, deliver: Callable[[Any, str], Any], channel: Any
    ) -> Callable[[Any, str], Any]:
        def note_and_deliver(message: Any, queue: str) -> Any:
            if queue in channel.active_queues:
                self.taken[queue] = time.monotonic()
            return deliver(message, queue)

        return note_and_deliver


def _aliases(channel: Any, queue: str) -> set[str]:
    """The names of a queue's lists but its own: `global_keyprefix` stands in front of it, and `sep`
    between it and a priority.
    """
    list_of = getattr(channel, "_q_for_pri", None)
    if list_of is None:
        return set()
    prefix = getattr(channel, "global_keyprefix", "") or ""
    lists = {base_of(f"{prefix}{list_of(queue, step)}") for step in channel.priority_steps}
    return lists - {queue}


def looking(proof: ConsumingProof, *, home: Path) -> Look:
    """What a worker with this proof says of itself; `home` is its Hermes home."""

    def look(now_ms: int) -> tuple[WorkerSign, dict[str, int]]:
        now = time.monotonic()

        def at(instants: Mapping[str, float]) -> dict[str, int]:
            return {
                name: now_ms - int((now - when) * 1000)
                for queue, when in instants.items()
                for name in (queue, *proof.aliases.get(queue, ()))
            }

        free, total = disk_of(home)
        is_full = proof.is_full()
        sign = WorkerSign(
            seen_ms=now_ms,
            queues=at(proof.asked),
            is_full=is_full,
            host=socket.gethostname(),
            disk_free=free,
            disk_total=total,
        )
        return sign, at(dict(proof.taken))

    return look


def prove(app: Celery) -> ConsumingProof:
    """Have the workers of an app, which are still to start, prove that they consume."""
    proof = ConsumingProof()

    class ChannelWatch(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery carries no types
        """Follows the consumer's channel each time that it is made."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            """The channel is there."""
            proof.follow(consumer)

    app.steps["consumer"].add(ChannelWatch)
    return proof


def _fullness(consumer: Any, channel: Any) -> Callable[[], bool]:
    """Whether a worker has no slot free; under `solo` the loop itself performs the task."""
    is_solo = type(consumer.pool).__module__.endswith(".solo")

    def is_full() -> bool:
        if is_solo and state.active_requests:
            return True
        return not channel.qos.can_consume()

    return is_full
