"""The scheduler class that `celery beat` drives.

Celery builds the scheduler twice (first `lazy`), so construction has no effects. On SIGTERM it
calls `close()` from the signal handler, in the middle of a running tick. After SystemExit has ended
the tick, it calls `close()` again. Only that second call may use the connections, so a `close()`
inside a tick does nothing.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.beat import Scheduler

from hermes_celery.celery_app.app_settings import app_settings, shown_url
from hermes_celery.celery_app.collaborators import collaborators_of
from hermes_celery.celery_app.watched_occurrences import BeatEntries
from hermes_celery.errors import SettingsError
from hermes_celery.events import event
from hermes_celery.guards.time_limit import Overdue, within
from hermes_celery.scheduling.beat import Beat, owner_name

if TYPE_CHECKING:
    from celery import Celery

    from hermes_celery.store.program_signs import ProgramSign

_log = logging.getLogger(__name__)

#: Seconds that a stopping beat waits for the server; its lease expires by itself anyway.
_GOODBYE_SECONDS = 3.0


class BeatScheduler(Scheduler):  # type: ignore[misc]  # Celery carries no types
    """The scheduler of `celery beat`; its documented name is `hermes_celery.beat:CronScheduler`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._beat: Beat | None = None
        self._sign: ProgramSign | None = None
        self._ticking = False
        super().__init__(*args, **kwargs)
        if kwargs.get("lazy"):
            # Celery prints its banner next; an invalid broker would end that in a traceback.
            _refuse_broker(self.app)

    def setup_schedule(self) -> None:
        """Do nothing: the schedules are in Redis."""

    @property
    def info(self) -> str:
        """A line of Celery's banner."""
        return f"    . schedules -> {shown_url(self.app)}"

    def apply_async(self, entry: Any, producer: Any = None, **_: Any) -> Any:
        """Send one occurrence; `apply_entry` calls this when other code watches it."""
        return entry.publish()

    def tick(self, *_: Any, **__: Any) -> float:
        """Take one step of the beat; return 0, since the step itself sleeps."""
        self._ticking = True
        try:
            if self._beat is None:
                owner, collaborators = owner_name(), collaborators_of(self.app)
                self._sign = collaborators.beat_sign(owner=owner)
                self._sign.start()
                self._beat = collaborators.beat(owner=owner, entries=BeatEntries(self))
            self._beat.step()
        finally:
            self._ticking = False
        return 0.0

    def close(self) -> None:
        """Stop leading. Ignored inside a tick: Celery calls again after the tick has ended."""
        if self._beat is not None and not self._ticking:
            beat, self._beat = self._beat, None
            try:
                within(_GOODBYE_SECONDS, partial(self._say_goodbye, beat))
            except Overdue as error:
                event(_log, "beat.release_failed", level=logging.WARNING, why=error)

    def _say_goodbye(self, beat: Beat) -> None:
        beat.stop()
        if self._sign is not None:
            self._sign.stop()

    def sync(self) -> None:
        """Do nothing: nothing is buffered."""


def _refuse_broker(app: Celery) -> None:
    try:
        app_settings(app)
    except SettingsError as error:
        raise SystemExit(f"Error: {error}") from None
