"""Finds orphaned entries: schedules that another beat left behind and that no beat runs any more.

A project that changes its scheduler from RedBeat or django-celery-beat to ours may have entries in
Redis or in Django's database that our beat does not run. The beat logs them when it takes the lead,
and `doctor` reports them, until they are imported or removed. Nothing is imported unasked.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hermes_celery.core.counted import counted
from hermes_celery.errors import HermesCeleryError, StoreError
from hermes_celery.events import event
from hermes_celery.interop import django_celery_beat
from hermes_celery.interop import redbeat as from_redbeat
from hermes_celery.interop.takeover import missing

if TYPE_CHECKING:
    from hermes_celery.store import Jobs
    from hermes_celery.store.redbeat import RedBeat

_log = logging.getLogger(__name__)
_MOST = 1_000
_NAMED = 5
#: An entry that django-celery-beat adds by itself; our beat adds it, too.
_CLEANUP = "celery.backend_cleanup"


def log_orphans_soon(look: Callable[[], list[str]]) -> None:
    """Log the result of `look`, called in its own thread: a database that hangs stops no beat."""
    threading.Thread(target=_tell, args=(look,), name="hermes-left-behind", daemon=True).start()


def _tell(look: Callable[[], list[str]]) -> None:
    try:
        found = look()
    except HermesCeleryError as error:
        event(_log, "schedule.not_looked_at", level=logging.WARNING, why=error)
        return
    for text in found:
        event(_log, "schedule.left_behind", level=logging.WARNING, why=text)


def orphaned_entries(jobs: Jobs, redbeat: RedBeat) -> list[str]:
    """Return one sentence for each other scheduler with entries that are no jobs here."""
    return [
        *_of(jobs, from_redbeat.SOURCE, lambda: redbeat.names(limit=_MOST),
             where=f"under {redbeat.prefix}", command="import redbeat"),
        *_of(jobs, django_celery_beat.SOURCE, _names_of_django,
             where="in Django's database", command=f"import {django_celery_beat.SOURCE} FILE"),
    ]  # fmt: skip


def _of(
    jobs: Jobs, source: str, look: Callable[[], Sequence[str]], *, where: str, command: str
) -> list[str]:
    try:
        names = missing(jobs, source, look())
    except StoreError:
        return []  # without permission to read there, this user has no entries there
    if not names:
        return []
    shown = ", ".join(sorted(names)[:_NAMED]) + (", ..." if names[_NAMED:] else "")
    count = counted(len(names), "entry", "entries")
    idle = "no longer runs and is no job" if len(names) == 1 else "no longer run and are no jobs"
    them = "it" if len(names) == 1 else "them"
    return [
        f"{count} of {source} {where} {idle} here ({shown}); import {them} with "
        f"`hermes-celery -A APP {command}` (try --dry-run first), or remove {them} there"
    ]


def _names_of_django() -> Sequence[str]:
    """Return the names of the enabled entries, if this project has django-celery-beat loaded."""
    models = sys.modules.get("django_celery_beat.models")
    if models is None:
        return ()
    try:
        found = models.PeriodicTask.objects.filter(enabled=True).exclude(task=_CLEANUP)
        names = [str(name) for name in found.values_list("name", flat=True)[:_MOST]]
        sys.modules["django.db"].connection.close()
        return names
    except Exception as error:  # noqa: BLE001 - the user's database may fail; costs this sentence
        event(_log, "schedule.not_looked_at", source=django_celery_beat.SOURCE, why=error)
        return ()
