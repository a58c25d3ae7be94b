"""Builds a project's beat, the declarer of its jobs, and the move of its jobs to its namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_celery.celery_app.app_settings import app_settings, shared_settings
from hermes_celery.celery_app.declarer import (
    DeclarationIncidents,
    DeclarationRecords,
    Declarer,
    NamespaceSharing,
    NoDeclarer,
    ProjectDeclarer,
)
from hermes_celery.clock import Clock, ServerClock
from hermes_celery.core.incidents import TroubleKind
from hermes_celery.interop.cron_attributes import manager_of
from hermes_celery.scheduling.namespace_move import NamespaceMove, OwnJobs, SecondBeat
from hermes_celery.store import Declarations, Formats, Incidents, Jobs, Waker
from hermes_celery.store.program_signs import ProgramSign
from hermes_celery.wiring.beat import BeatPlace, beat_of
from hermes_celery.wiring.program_sign import make_sign
from hermes_celery.wiring.server import open_database
from hermes_celery.wiring.watchdogs import make_reporter

if TYPE_CHECKING:
    from hermes_celery.celery_app.messages import OccurrenceListener
    from hermes_celery.celery_app.types import Celery
    from hermes_celery.clock import Clock
    from hermes_celery.scheduling.beat import Beat
    from hermes_celery.settings import Settings
    from hermes_celery.store import Database


def make_declarer(
    app: Celery, settings: Settings, database: Database, *, owner: str, clock: Clock
) -> Declarer:
    """Return the leader's part that declares an app's jobs; our own app declares none."""
    if app.conf.get("hermes_is_own_app"):
        return NoDeclarer()
    declarations = Declarations(database)
    return ProjectDeclarer(
        app,
        DeclarationRecords(jobs=Jobs(database), declarations=declarations),
        sharing=NamespaceSharing(app, declarations, owner=owner, namespace=settings.namespace),
        troubles=DeclarationIncidents(make_reporter(settings, database), Incidents(database)),
        default_timezone=settings.timezone,
        moving=_make_namespace_move(app, settings, database, owner=owner, clock=clock),
    )


def make_beat_sign(app: Celery, *, owner: str) -> ProgramSign:
    """Return the sign that a beat is alive and what it declares."""
    settings = app_settings(app)
    if app.conf.get("hermes_is_own_app"):
        return make_sign(settings, name=f"beat {owner}")
    database = open_database(settings)
    clock = ServerClock(database.now_ms)
    declarations = Declarations(database)
    sharing = NamespaceSharing(app, declarations, owner=owner, namespace=settings.namespace)
    return make_sign(
        settings,
        name=f"beat {owner}",
        also=lambda: sharing.say(clock.now_ms()),
        at_end=lambda: declarations.say_gone(owner),
    )


class _SignedBeat:
    """A beat of the shared namespace, with the sign that it is not of version 0.1.0."""

    def __init__(self, beat: Beat, sign: ProgramSign) -> None:
        self._beat = beat
        self._sign = sign

    def step(self) -> object:
        return self._beat.step()

    def stop(self) -> None:
        self._beat.stop()
        self._sign.stop()


def _make_namespace_move(
    app: Celery, settings: Settings, database: Database, *, owner: str, clock: Clock
) -> NamespaceMove | None:
    """Return the move of a project's jobs out of the namespace that all projects shared in 0.1.0.

    None if there is nothing to move: a namespace from the environment was the same in 0.1.0.
    """
    shared = shared_settings(app)
    if shared is None:
        return None
    source = open_database(shared)
    troubles = DeclarationIncidents(make_reporter(settings, database), Incidents(database))

    def second() -> _SignedBeat:
        sign = ProgramSign(
            Formats(source),
            name=f"beat {owner}",
            clock=clock,
            stop_program=beside.stop,
        )
        # Sign before waiting for wake-ups: a beat that waits without a sign counts as 0.1.0.
        sign.say()
        sign.start()
        return _SignedBeat(
            beat_of(
                BeatPlace(
                    app=app,
                    settings=shared,
                    database=open_database(shared),
                    owner=owner,
                    clock=clock,
                ),
                declaring=NoDeclarer(),
            ),
            sign,
        )

    beside = SecondBeat(second, clock=clock)

    return NamespaceMove(
        source,
        database,
        own=OwnJobs(manager=manager_of(app), knows_task=lambda name: name in app.tasks),
        tell=lambda text: troubles.tell(
            TroubleKind.NAMESPACE, "moving", text, now_ms=clock.now_ms()
        ),
        over=lambda text: troubles.over(
            TroubleKind.NAMESPACE, "moving", text, now_ms=clock.now_ms()
        ),
        second=beside,
    )


def make_beat(
    app: Celery,
    *,
    owner: str,
    clock: Clock | None = None,
    waker: Waker | None = None,
    entries: OccurrenceListener | None = None,
) -> Beat:
    """Return a beat for this app's namespace; without `clock`, by the server's clock.

    `entries` is notified of each scheduled occurrence, for code that watches Celery's beat.
    """
    settings = app_settings(app)
    database = open_database(settings)
    clock = clock or ServerClock(database.now_ms)
    declaring = make_declarer(app, settings, database, owner=owner, clock=clock)
    place = BeatPlace(app=app, settings=settings, database=database, owner=owner, clock=clock)
    return beat_of(place, declaring=declaring, waker=waker, entries=entries)
