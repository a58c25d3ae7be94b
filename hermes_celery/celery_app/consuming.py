"""Proves that a worker's main loop consumes: it asked the server for messages and got an answer.

kombu asks with a BRPOP that names every queue and returns within a second, with or without a
message. Each return is noted for the queues that it named, under every pool. Each message is noted
for the queue that it came from. A note costs one reading of the clock.
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
    """The times at which a worker's main loop last asked for messages, by the monotonic clock."""

    def __init__(self) -> None:
        #: By queue: when the loop last asked for its messages and got an answer.
        self.asked: dict[str, float] = {}
        #: By queue: when a message was last taken from it.
        self.taken: dict[str, float] = {}
        #: By queue: the other names of its lists, from the app's transport options.
        self.aliases: dict[str, set[str]] = {}
        self._is_full: Callable[[], bool] = lambda: False

    def follow(self, consumer: Any) -> None:
        """Watch the channel of a Celery consumer; called again after each reconnection."""
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
        """Return whether all slots are taken, so that the loop asks for nothing; counts as asking.

        Otherwise a loop whose slot became free a moment ago would look like one that never asks.
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
        # Replaced as a whole: another thread reads the old value or the new one.
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
    """Return the other names of a queue's lists.

    `global_keyprefix` stands before the queue's name, and `sep` between the name and a priority.
    """
    list_of = getattr(channel, "_q_for_pri", None)
    if list_of is None:
        return set()
    prefix = getattr(channel, "global_keyprefix", "") or ""
    lists = {base_of(f"{prefix}{list_of(queue, step)}") for step in channel.priority_steps}
    return lists - {queue}


def looking(proof: ConsumingProof, *, home: Path) -> Look:
    """Return a function that makes the sign of a worker with this proof.

    `home` is the worker's Hermes home; the sign has the free space of its disk.
    """

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
    """Make the workers that this app starts prove that they consume; return the proof."""
    proof = ConsumingProof()

    class ChannelWatch(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery carries no types
        """Follows the consumer's channel each time it is made."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, consumer: Any) -> None:
            """Follow the channel, which exists now."""
            proof.follow(consumer)

    app.steps["consumer"].add(ChannelWatch)
    return proof


def _fullness(consumer: Any, channel: Any) -> Callable[[], bool]:
    """Return a function that says whether a worker has no free slot.

    Under the `solo` pool the main loop itself performs the task.
    """
    is_solo = type(consumer.pool).__module__.endswith(".solo")

    def is_full() -> bool:
        if is_solo and state.active_requests:
            return True
        return not channel.qos.can_consume()

    return is_full
