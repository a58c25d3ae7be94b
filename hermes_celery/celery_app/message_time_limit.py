"""Limits the time that a project's own code may take to build a message.

What `apply_async` runs (signals, routers, locks) may hang, and a beat that waited for it would
dispatch nothing. So one long-lived thread makes the calls, and the beat waits for each only a
moment. A call that takes longer keeps its thread, and another thread serves the other jobs. When
the beat asks for the same message again, even minutes later, it gets the result of that call: a
second call might publish a second message. After 2 seconds the run fails. A job whose call hangs
gets no second call until the first one ends.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from celery import Celery, current_app

from hermes_celery.core.built_message import BuildOutcome, BuiltMessage
from hermes_celery.errors import JobError
from hermes_celery.events import event

if TYPE_CHECKING:
    from hermes_celery.core.job import JobSpec
    from hermes_celery.scheduling.planned_runs import BuildsMessages

_log = logging.getLogger(__name__)

#: Identifies a message: run, attempt and push.
_Key = tuple[str, int, int]

#: Seconds that building one message may take.
BUILD_SECONDS = 2.0
#: Seconds that the beat waits for a new call: a fraction of a lease.
_AT_ONCE_SECONDS = 0.25
#: Seconds that the beat waits for a new call while another call is still running.
_BESIDE_SECONDS = 0.01
#: Seconds between renewals of the leases while the beat waits; a lease lasts less than a second.
_MEANWHILE_SECONDS = 0.1
#: Most calls that run at once; each has a thread.
_MOST_GOING_ON = 32
#: Seconds after its end for which a call keeps the job's next run waiting, to keep their order.
_FIRST_SECONDS = 20.0
#: Seconds after which nothing asks for a result any more, because its run is over.
_KEPT_SECONDS = 900.0
#: Most results kept.
_MOST_KEPT = 1_000


class BoundedMessages:
    """Builds messages without keeping its caller waiting for long; for use by one thread."""

    def __init__(
        self,
        messages: BuildsMessages,
        *,
        on_hang: Callable[[JobSpec, str], None] = lambda spec, what: None,
        seconds: float = BUILD_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_hang` is called for each run that fails because a call exceeds `seconds`."""
        self.queue = messages.queue
        self.message = messages.message
        self.runs_again = messages.runs_again
        #: Called again and again while the beat waits for a message; it raises nothing.
        self.meanwhile: Callable[[], None] = lambda: None
        self._messages = messages
        self._on_hang = on_hang
        self._seconds = seconds
        self._monotonic = monotonic
        self._builder: _Builder | None = None
        #: By job: the call that was not done in time.
        self._open: dict[str, _Call] = {}
        #: By message: calls that are done and keep no other run waiting, oldest first.
        self._left: dict[_Key, _Call] = {}

    def build(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> BuiltMessage:
        """Return the message of an admitted run; `BuildOutcome.PENDING` means: ask again.

        Raises the errors of building it, and JobError when that takes too long or an earlier call
        for this job still hangs.
        """
        key = (run_id, attempt, push)
        self._set_aside()
        left = self._left.pop(key, None)
        if left is not None:
            return left.result()
        self._drop_old()
        call = self._open.get(spec.id)
        if call is not None:
            return self._result_of(call, spec) if call.key == key else self._behind(call, spec)
        if len(self._open) >= _MOST_GOING_ON:
            return self._no_room()
        call = _Call(
            partial(
                self._messages.build,
                spec,
                run_id=run_id,
                due_ms=due_ms,
                attempt=attempt,
                push=push,
            ),
            key=key,
            monotonic=self._monotonic,
        )
        return call.result() if self._is_done(call) else self._goes_on(call, spec)

    def _is_done(self, call: _Call) -> bool:
        if self._builder is None:
            self._builder = _Builder()
        self._builder.give(call)
        # Calls that were given up may hang for hours; they must not delay the others.
        goes_on = any(not one.is_given_up for one in self._open.values())
        wait = min(_BESIDE_SECONDS if goes_on else _AT_ONCE_SECONDS, self._seconds)
        deadline = self._monotonic() + wait
        while not call.wait(min(_MEANWHILE_SECONDS, wait)):
            self.meanwhile()
            if self._monotonic() >= deadline:
                return False
        return True

    def _goes_on(self, call: _Call, spec: JobSpec) -> BuiltMessage:
        if self._builder is not None:
            # Its thread ends when the call does.
            self._builder.give(None)
            self._builder = None
        self._open[spec.id] = call
        return BuiltMessage(way=BuildOutcome.PENDING)

    def _result_of(self, call: _Call, spec: JobSpec) -> BuiltMessage:
        """Return the result of an open call for its own run. Raises JobError if it hangs."""
        if call.is_over:
            del self._open[spec.id]
            return call.result()
        if self._is_hanging(call, spec):
            raise JobError(self._too_long)
        return BuiltMessage(way=BuildOutcome.PENDING)

    def _behind(self, call: _Call, spec: JobSpec) -> BuiltMessage:
        """Return the result for a run while a call for an earlier run of its job is open."""
        if self._is_hanging(call, spec):
            seconds = self._monotonic() - call.began
            raise JobError(f"an apply_async of this job still hangs, since {seconds:.0f} s")
        return BuiltMessage(way=BuildOutcome.PENDING)

    def _is_hanging(self, call: _Call, spec: JobSpec) -> bool:
        """Return whether a call takes too long; the run that asks for it then fails."""
        if call.is_over or self._monotonic() - call.began < self._seconds:
            return False
        if not call.is_given_up:
            call.is_given_up = True
            event(_log, "job.hangs", level=logging.ERROR, job=spec.name, why=self._too_long)
        self._on_hang(spec, self._too_long)
        return True

    @property
    def _too_long(self) -> str:
        return f"its apply_async did not return within {self._seconds:g} s"

    def _no_room(self) -> BuiltMessage:
        """Return PENDING while all threads are in use. Raises JobError if all of them hang."""
        if all(call.is_given_up for call in self._open.values()):
            raise JobError(f"apply_async of {_MOST_GOING_ON} other jobs hangs")
        return BuiltMessage(way=BuildOutcome.PENDING)

    def _set_aside(self) -> None:
        """Move finished calls aside when they no longer hold back other runs of their job."""
        first = self._monotonic() - _FIRST_SECONDS
        for job, call in list(self._open.items()):
            if call.is_over and (call.is_given_up or call.ended < first):
                self._left[call.key] = self._open.pop(job)

    def _drop_old(self) -> None:
        """Forget results that nobody asked for in time."""
        oldest = self._monotonic() - _KEPT_SECONDS
        kept = [(key, call) for key, call in self._left.items() if call.ended >= oldest]
        self._left = dict(kept[-_MOST_KEPT:])


class _Call:
    """One call, made in the context and with the current app of its caller."""

    def __init__(
        self, work: Callable[[], BuiltMessage], *, key: _Key, monotonic: Callable[[], float]
    ) -> None:
        """`key` identifies the message."""
        self.key = key
        self.began = monotonic()
        #: When the call returned; valid once it `is_over`.
        self.ended = 0.0
        self._monotonic = monotonic
        #: Whether its run has failed because the call took too long.
        self.is_given_up = False
        self._work = work
        self._context = contextvars.copy_context()
        self._app: Celery = current_app._get_current_object()
        self._done = threading.Event()
        self._built: BuiltMessage | None = None
        self._error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        """True once the call has returned."""
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for the call; return whether it has returned."""
        return self._done.wait(seconds)

    def make(self) -> None:
        """Make the call; keep its error instead of raising it in this thread."""
        try:
            # Celery keeps its current app per thread, not per context.
            self._app.set_current()
            self._built = self._context.run(self._work)
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
            self._error = error
        finally:
            self.ended = self._monotonic()
            self._done.set()

    def result(self) -> BuiltMessage:
        """Return the result, or raise the error, of the call."""
        if self._error is not None:
            raise self._error
        assert self._built is not None
        return self._built


class _Builder:
    """One thread that makes calls, one after the other, until it is given None."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        threading.Thread(target=self._loop, name="hermes-building", daemon=True).start()

    def give(self, call: _Call | None) -> None:
        """Queue a call; None ends the thread."""
        self._calls.put(call)

    def _loop(self) -> None:
        while (call := self._calls.get()) is not None:
            call.make()
