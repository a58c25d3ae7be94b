"""What other beats have left, in the places where they keep it: entries that nothing runs any more.

Who changes the scheduler of a project from RedBeat or django-celery-beat to ours has jobs in Redis
or in Django's database that ours knows nothing of. They are told when a beat takes the lead, and by
`doctor`, until they are taken over or gone; nothing is taken over without being asked for.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

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
#: What django-celery-beat puts there by itself, and ours too.
_CLEANUP = "celery.backend_cleanup"


def log_orphans_soon(look: Callable[[], list[str]]) -> None:
    """Look in a thread of its own, and log what is left: a database that hangs stops no beat."""
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
    """One sentence for each other scheduler that has entries which are no jobs here."""
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
        return []  # no right to look there, so nothing of this user's is there
    if not names:
        return []
    shown = ", ".join(sorted(names)[:_NAMED]) + (", ..." if names[_NAMED:] else "")
    count = "1 entry" if len(names) == 1 else f"{len(names)} entries"
    idle = "runs no more and is no job" if len(names) == 1 else "run no more and are no jobs"
    them = "it" if len(names) == 1 else "them"
    return [
        f"{count} of {source} {where} {idle} here ({shown}); take {them} over with "
        f"`hermes-celery -A APP {command}`, which has a --dry-run, or remove {them} there"
    ]


def _names_of_django() -> Sequence[str]:
    """The enabled entries, where this project has django-celery-beat loaded."""
    models = sys.modules.get("django_celery_beat.models")
    if models is None:
        return ()
    try:
        found = models.PeriodicTask.objects.filter(enabled=True).exclude(task=_CLEANUP)
        names = [str(name) for name in found.values_list("name", flat=True)[:_MOST]]
        sys.modules["django.db"].connection.close()
        return names
    except Exception as error:  # noqa: BLE001 - a database of the user's; costs this sentence
        event(_log, "schedule.not_looked_at", source=django_celery_beat.SOURCE, why=error)
        return ()
