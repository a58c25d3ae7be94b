"""Builds the readers of schedules that other beats left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes_celery.core.server_address import parse_address
from hermes_celery.errors import SettingsError
from hermes_celery.interop import redbeat
from hermes_celery.interop.orphaned_entries import orphaned_entries
from hermes_celery.settings import Settings
from hermes_celery.store import Database, Jobs, connect
from hermes_celery.store.redbeat import DEFAULT_PREFIX, RedBeat
from hermes_celery.wiring.server import open_database

if TYPE_CHECKING:
    from hermes_celery.celery_app.types import Celery


def open_redbeat(
    settings: Settings, *, app: Celery | None, prefix: str | None = None, url: str | None = None
) -> RedBeat:
    """Return RedBeat's entries: where the app's settings say, else in our store.

    Without `prefix` and without an app, RedBeat's usual prefix is used. Raises SettingsError.
    """
    if app is not None:
        prefix = prefix or redbeat.prefix_of(app.conf)
        url = url or redbeat.url_of(app.conf)
    database = open_database(settings)
    if url is not None:
        try:
            database = Database(connect(parse_address(url)), keys=database.keys)
        except ValueError as error:
            raise SettingsError([f"RedBeat's Redis: {error}"]) from None
    return RedBeat(database, prefix=prefix or DEFAULT_PREFIX)


def orphans_of_others(settings: Settings, *, app: Celery | None) -> list[str]:
    """Return a sentence for each other scheduler whose entries no beat runs any more.

    Raises SettingsError.
    """
    return orphaned_entries(Jobs(open_database(settings)), open_redbeat(settings, app=app))
