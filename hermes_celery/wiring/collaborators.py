"""Builds the collaborators of an app's tasks, hooks and scheduler class, each on request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import cache

from hermes_celery.celery_app.app_settings import app_settings, shared_settings
from hermes_celery.celery_app.collaborators import give_collaborators, has_collaborators
from hermes_celery.celery_app.safe_consumer import DeadLetters
from hermes_celery.celery_app.types import Celery
from hermes_celery.celery_app.watched_occurrences import BeatEntries
from hermes_celery.celery_app.worker_hooks import register
from hermes_celery.clock import ServerClock
from hermes_celery.delivering.beat_watchdog import BeatWatchdog
from hermes_celery.delivering.deliverer import Deliverer
from hermes_celery.running.ended_by_celery import RunEnder
from hermes_celery.running.runner import Runner
from hermes_celery.running.stuck_work import HeldMessage, PoolSlotGuard
from hermes_celery.scheduling.beat import Beat
from hermes_celery.store import Runs
from hermes_celery.store.program_signs import ProgramSign
from hermes_celery.store.worker_signs import Look, Presence
from hermes_celery.wiring import project_jobs
from hermes_celery.wiring.delivery import check_alerts, make_deliverer
from hermes_celery.wiring.program_sign import make_sign
from hermes_celery.wiring.server import open_database, reachable_database
from hermes_celery.wiring.watchdogs import make_beat_watchdog, make_slot_guard
from hermes_celery.wiring.worker import make_dead_letters, make_run_ender, make_runner


def hook_app(app: Celery) -> None:
    """Put our tasks and process hooks on an app. Connects to nothing."""
    give_collaborators(app, AppCollaborators(app))
    register(app)


def ensure_collaborators(app: Celery) -> None:
    """Give an app without `Cron(app)` the collaborators that our scheduler class needs."""
    if not has_collaborators(app):
        give_collaborators(app, AppCollaborators(app))


class AppCollaborators:
    """The collaborators of one app's processes (`celery_app.collaborators.Collaborators`)."""

    def __init__(self, app: Celery) -> None:
        # The settings are read late: a project configures its app after creating it.
        self._app = app

    def check_server(self, *, queues: Collection[str]) -> None:
        """Check the store's server. Raises StoreUnavailable, StoreUnsuitable or SettingsError."""
        reachable_database(app_settings(self._app), queues=queues).close()

    def check_alerts(self, *, delivers_here: bool) -> None:
        """Check that alerts reach somebody. Raises SettingsError."""
        check_alerts(app_settings(self._app), delivers_here=delivers_here)

    def runner(self) -> Runner:
        """Return the app's runner, which also finds runs in the shared namespace of 0.1.0."""
        shared = shared_settings(self._app)
        runner = make_runner(app_settings(self._app), app=self._app)
        if shared is not None:
            runner.elsewhere = cache(lambda: make_runner(shared, app=self._app))
        return runner

    def runs(self) -> Runs:
        """Return the runs of the app's namespace."""
        return Runs(open_database(app_settings(self._app)))

    def clock(self) -> ServerClock:
        """Return the clock of the app's server."""
        return ServerClock(open_database(app_settings(self._app)).now_ms)

    def run_ender(self) -> RunEnder:
        """Return the ender of runs whose messages Celery handles without calling the task."""
        return make_run_ender(app_settings(self._app))

    def dead_letters(self, *, worker: str, run_ender: RunEnder) -> DeadLetters:
        """Return the store for messages that this worker cannot read."""
        return make_dead_letters(app_settings(self._app), worker=worker, run_ender=run_ender)

    def deliverers(self) -> tuple[Deliverer, Deliverer | None]:
        """Return the deliverers of the app's namespace and of the shared one, which may be None."""
        shared = shared_settings(self._app)
        own = make_deliverer(app_settings(self._app))
        return own, None if shared is None else make_deliverer(shared)

    def presence(self, *, worker: str, look: Look) -> Presence:
        """Return the object that records that this worker is alive."""
        return Presence(open_database(app_settings(self._app)), name=worker, look=look)

    def worker_sign(self, *, worker: str) -> ProgramSign:
        """Return the sign that says which stored format this worker reads."""
        return make_sign(app_settings(self._app), name=f"worker {worker}")

    def beat_watch(self) -> BeatWatchdog:
        """Return the watchdog that checks, in a worker, that some beat ticks."""
        return make_beat_watchdog(app_settings(self._app))

    def slot_guard(
        self, *, worker: str, held: Callable[[], Iterable[HeldMessage]], kill: Callable[[int], None]
    ) -> PoolSlotGuard:
        """Return the guard of this worker's pool slots."""
        return make_slot_guard(app_settings(self._app), worker=worker, held=held, kill=kill)

    def beat(self, *, owner: str, entries: BeatEntries) -> Beat:
        """Return a beat for the app's namespace."""
        return project_jobs.make_beat(self._app, owner=owner, entries=entries)

    def beat_sign(self, *, owner: str) -> ProgramSign:
        """Return the sign that this beat is alive and what it declares."""
        return project_jobs.make_beat_sign(self._app, owner=owner)
