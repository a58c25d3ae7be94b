"""What the tasks, hooks and the scheduler class of an app are handed: one value on the app.

The composition root makes it (`wiring.collaborators`); what Celery calls finds it here.
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
    """The collaborators of one app's processes; each is made when it is asked for.

    Every one of them may raise SettingsError or StoreError.
    """

    def check_server(self, *, queues: Collection[str]) -> None:
        """Refuse a server that cannot carry what is on these queues."""

    def check_alerts(self, *, delivers_here: bool) -> None:
        """Refuse alerts that would reach nobody."""

    def runner(self) -> Runner:
        """What performs runs in this process, those that 0.1.0 left elsewhere too."""

    def runs(self) -> Runs:
        """The runs of the app's namespace."""

    def clock(self) -> Clock:
        """The server's clock."""

    def run_ender(self) -> RunEnder:
        """What ends runs whose messages Celery deals with by itself."""

    def dead_letters(self, *, worker: str, run_ender: RunEnder) -> DeadLetters:
        """Where this worker puts messages that it cannot read."""

    def deliverers(self) -> tuple[Deliverer, Deliverer | None]:
        """That of the app's namespace, and that of the one in which 0.1.0 kept everything."""

    def presence(self, *, worker: str, look: Look) -> Presence:
        """A worker's sign of life."""

    def worker_sign(self, *, worker: str) -> ProgramSign:
        """What says which stored format this worker reads."""

    def beat_watch(self) -> BeatWatchdog:
        """What watches from a worker that some beat ticks."""

    def slot_guard(
        self, *, worker: str, held: Callable[[], Iterable[HeldMessage]], kill: Callable[[int], None]
    ) -> PoolSlotGuard:
        """What watches the slots of this worker's pool."""

    def beat(self, *, owner: str, entries: BeatEntries) -> Beat:
        """A beat for the app's namespace."""

    def beat_sign(self, *, owner: str) -> ProgramSign:
        """What says that this beat is there, and what it declares."""


def collaborators_of(app: Celery) -> Collaborators:
    """The value on an app. Raises SettingsError where it has none."""
    found: Collaborators | None = getattr(app, _ATTRIBUTE, None)
    if found is None:
        raise SettingsError(
            [
                f"the app {app.main or 'celery'} has no cron: write `from hermes_celery import "
                "Cron` and `Cron(app)` below the line that makes the app"
            ]
        )
    return found


def has_collaborators(app: Celery) -> bool:
    """Whether an app has the value."""
    return hasattr(app, _ATTRIBUTE)


def give_collaborators(app: Celery, collaborators: Collaborators) -> None:
    """Put the value on an app."""
    setattr(app, _ATTRIBUTE, collaborators)
