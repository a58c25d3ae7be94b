"""The objects that an app's tasks, hooks and scheduler class need, as one value on the app.

The composition root makes the value (`wiring.collaborators`). Code that Celery calls reads it here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Protocol

from hermes_celery.errors import SettingsError

if TYPE_CHECKING:
    from celery import Celery

    from hermes_celery.celery_app.safe_consumer import DeadLetters
    from hermes_celery.celery_app.watched_occurrences import BeatEntries
    from hermes_celery.clock import Clock
    from hermes_celery.delivering.beat_watchdog import BeatWatchdog
    from hermes_celery.delivering.deliverer import Deliverer
    from hermes_celery.running.ended_by_celery import RunEnder
    from hermes_celery.running.runner import Runner
    from hermes_celery.running.stuck_work import HeldMessage, PoolSlotGuard
    from hermes_celery.scheduling.beat import Beat
    from hermes_celery.store import Runs
    from hermes_celery.store.program_signs import ProgramSign
    from hermes_celery.store.worker_signs import Look, Presence

_ATTRIBUTE = "_hermes_celery_collaborators"


class Collaborators(Protocol):
    """The collaborators of one app's processes; each is made on request.

    Every method may raise SettingsError or StoreError.
    """

    def check_server(self, *, queues: Collection[str]) -> None:
        """Refuse a server that cannot serve these queues."""

    def check_alerts(self, *, delivers_here: bool) -> None:
        """Refuse alerts that would reach nobody."""

    def runner(self) -> Runner:
        """Return the runner of this process, which also finds runs that 0.1.0 left elsewhere."""

    def runs(self) -> Runs:
        """Return the runs of the app's namespace."""

    def clock(self) -> Clock:
        """Return the server's clock."""

    def run_ender(self) -> RunEnder:
        """Return the ender of runs whose messages Celery handles without calling the task."""

    def dead_letters(self, *, worker: str, run_ender: RunEnder) -> DeadLetters:
        """Return the store for messages that this worker cannot read."""

    def deliverers(self) -> tuple[Deliverer, Deliverer | None]:
        """Return the deliverers of the app's namespace and of the shared one, which may be None."""

    def presence(self, *, worker: str, look: Look) -> Presence:
        """Return the object that records that this worker is alive."""

    def worker_sign(self, *, worker: str) -> ProgramSign:
        """Return the sign that says which stored format this worker reads."""

    def beat_watch(self) -> BeatWatchdog:
        """Return the watchdog that checks, in a worker, that some beat ticks."""

    def slot_guard(
        self, *, worker: str, held: Callable[[], Iterable[HeldMessage]], kill: Callable[[int], None]
    ) -> PoolSlotGuard:
        """Return the guard of this worker's pool slots."""

    def beat(self, *, owner: str, entries: BeatEntries) -> Beat:
        """Return a beat for the app's namespace."""

    def beat_sign(self, *, owner: str) -> ProgramSign:
        """Return the sign that this beat is alive and what it declares."""


def collaborators_of(app: Celery) -> Collaborators:
    """Return the value on an app. Raises SettingsError if it has none."""
    found: Collaborators | None = getattr(app, _ATTRIBUTE, None)
    if found is None:
        raise SettingsError(
            [
                f"the app {app.main or 'celery'} has no cron: write `from hermes_celery import "
                "Cron` and `Cron(app)` below the line that creates the app"
            ]
        )
    return found


def has_collaborators(app: Celery) -> bool:
    """Return whether an app has the value."""
    return hasattr(app, _ATTRIBUTE)


def give_collaborators(app: Celery, collaborators: Collaborators) -> None:
    """Put the value on an app."""
    setattr(app, _ATTRIBUTE, collaborators)
