"""An end to the building of messages by the project's own code, so that a hung call costs its job.

What `apply_async` runs (signals, routers, locks) may hang, and a beat that waits for it dispatches
nothing. So it is called in one long-lived thread, and waited for during a moment only. A call that
goes on keeps its thread, and another thread serves the others; whoever asks for the same message
again gets what became of it, also minutes later: a second call might publish a second message.
After 2 seconds its run fails. A job whose call hangs gets no second one until that ends.
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

#: Whose message it is: run, attempt and push.
_Key = tuple[str, int, int]

#: So long one message may take.
BUILD_SECONDS = 2.0
#: So long it is waited for at once, of what a lease lasts; beside one that may end yet, a moment.
_AT_ONCE_SECONDS, _BESIDE_SECONDS = 0.25, 0.01
#: How often the leases are renewed meanwhile, which last not even a second.
_MEANWHILE_SECONDS = 0.1
#: So many calls go on at once; each has a thread.
_MOST_GOING_ON = 32
#: So long after its end a call keeps the next run of its job waiting, for the sake of their order.
_FIRST_SECONDS = 20.0
#: A result that nobody asked for within so long belongs to a run that is over; so many are kept.
_KEPT_SECONDS, _MOST_KEPT = 900.0, 1_000


class BoundedMessages:
    """Messages of which none keeps its caller for long; for one thread."""

    def __init__(
        self,
        messages: BuildsMessages,
        *,
        on_hang: Callable[[JobSpec, str], None] = lambda spec, what: None,
        seconds: float = BUILD_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_hang` hears of each run that fails since a call takes longer than `seconds`."""
        self.queue = messages.queue
        self.message = messages.message
        self.runs_again = messages.runs_again
        #: Called again and again while a message is waited for; it raises nothing.
        self.meanwhile: Callable[[], None] = lambda: None
        self._messages = messages
        self._on_hang = on_hang
        self._seconds = seconds
        self._monotonic = monotonic
        self._builder: _Builder | None = None
        #: By job: the call that was not over when it was waited for.
        self._open: dict[str, _Call] = {}
        #: By message: those that are over, the oldest first, and keep no other run waiting.
        self._left: dict[_Key, _Call] = {}

    def build(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> BuiltMessage:
        """The message of an admitted run; `BuildOutcome.PENDING`: it is to be asked for again.

        Raises whatever building it raises, and JobError when that takes too long, or an earlier
        call for this job still hangs.
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
        # Those that are given up may hang for hours, and must not make the others late.
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
        """What became of a call that went on, for the run that it is for."""
        if call.is_over:
            del self._open[spec.id]
            return call.result()
        if self._is_hanging(call, spec):
            raise JobError(self._too_long)
        return BuiltMessage(way=BuildOutcome.PENDING)

    def _behind(self, call: _Call, spec: JobSpec) -> BuiltMessage:
        """What becomes of a run while a call for an earlier one of its job is not over."""
        if self._is_hanging(call, spec):
            seconds = self._monotonic() - call.began
            raise JobError(f"an apply_async of this job still hangs, since {seconds:.0f} s")
        return BuiltMessage(way=BuildOutcome.PENDING)

    def _is_hanging(self, call: _Call, spec: JobSpec) -> bool:
        """Whether it takes too long; then whoever asks for it fails."""
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
        """There are too many threads already; it is waited for those that are not given up."""
        if all(call.is_given_up for call in self._open.values()):
            raise JobError(f"apply_async of {_MOST_GOING_ON} other jobs hangs")
        return BuiltMessage(way=BuildOutcome.PENDING)

    def _set_aside(self) -> None:
        """Let calls that are over keep no run waiting any longer that is not theirs."""
        first = self._monotonic() - _FIRST_SECONDS
        for job, call in list(self._open.items()):
            if call.is_over and (call.is_given_up or call.ended < first):
                self._left[call.key] = self._open.pop(job)

    def _drop_old(self) -> None:
        """Forget results that nobody wants."""
        oldest = self._monotonic() - _KEPT_SECONDS
        kept = [(key, call) for key, call in self._left.items() if call.ended >= oldest]
        self._left = dict(kept[-_MOST_KEPT:])


class _Call:
    """One call, in the context and with the current app of who asks for it."""

    def __init__(
        self, work: Callable[[], BuiltMessage], *, key: _Key, monotonic: Callable[[], float]
    ) -> None:
        """`key` tells whose message it is."""
        self.key = key
        self.began = monotonic()
        #: When it came back; it means something once it `is_over`.
        self.ended = 0.0
        self._monotonic = monotonic
        #: Whether its run has failed, since it took too long.
        self.is_given_up = False
        self._work = work
        self._context = contextvars.copy_context()
        self._app: Celery = current_app._get_current_object()
        self._done = threading.Event()
        self._built: BuiltMessage | None = None
        self._error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        """Whether it came back."""
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for it; whether it came back."""
        return self._done.wait(seconds)

    def make(self) -> None:
        """Call; nothing is raised in this thread."""
        try:
            # Which app is the current one is told by thread, not by context.
            self._app.set_current()
            self._built = self._context.run(self._work)
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
        finally:
            self.ended = self._monotonic()
            self._done.set()

    def result(self) -> BuiltMessage:
        """What came of it."""
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
        """Have a call made, or the thread end."""
        self._calls.put(call)

    def _loop(self) -> None:
        while (call := self._calls.get()) is not None:
            call.make()
