"""The scheduler class that `celery beat` drives.

Celery builds the scheduler twice (once `lazy`), so construction has no effects. On SIGTERM it calls
`close()` from the signal handler, in the middle of a running tick, and calls it again after the
tick was torn down by SystemExit. Only the second call may use the connections, so a `close()` that
comes inside a tick does nothing.
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

#: A server that does not answer must not keep a beat that stops; its lease expires by itself.
_GOODBYE_SECONDS = 3.0


class BeatScheduler(Scheduler):  # type: ignore[misc]  # Celery carries no types
    """What `celery beat` drives; `hermes_celery.beat:CronScheduler` is its documented name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._beat: Beat | None = None
        self._sign: ProgramSign | None = None
        self._ticking = False
        super().__init__(*args, **kwargs)
        if kwargs.get("lazy"):
            # Celery's banner comes next, and a broker that it cannot read would be a traceback.
            _refuse_broker(self.app)

    def setup_schedule(self) -> None:
        """Nothing: the schedules are in Redis."""

    @property
    def info(self) -> str:
        """A line of the banner."""
        return f"    . schedules -> {shown_url(self.app)}"

    def apply_async(self, entry: Any, producer: Any = None, **_: Any) -> Any:
        """Send one occurrence; `apply_entry` calls it, where somebody watches that."""
        return entry.publish()

    def tick(self, *_: Any, **__: Any) -> float:
        """One step; it sleeps by itself, so Celery calls again at once."""
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
        """Stop leading. Ignored inside a tick: Celery calls again when the tick is torn down."""
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
        """Nothing is kept back, so there is nothing to write."""


def _refuse_broker(app: Celery) -> None:
    try:
        app_settings(app)
    except SettingsError as error:
        raise SystemExit(f"Error: {error}") from None
