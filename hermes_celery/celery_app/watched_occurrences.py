"""Presents scheduled occurrences as entries of Celery's beat, to code that watches it.

Monitoring libraries replace `celery.beat.Scheduler.apply_entry` to observe each occurrence: they
read the entry's name and schedule, add headers to its options, and let the original send it. If a
library does that, each occurrence of a project's task goes once through our scheduler's
`apply_entry`, with its real id. If none does, no entry is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from celery.beat import ScheduleEntry
from celery.schedules import BaseSchedule, ParseException, crontab, maybe_schedule, schedule

from hermes_celery.celery_app.publishing_code import is_library_code
from hermes_celery.core.task_call import live_call
from hermes_celery.schedule import ScheduleKind

if TYPE_CHECKING:
    from celery.beat import Scheduler

    from hermes_celery.celery_app.message_channel import Send
    from hermes_celery.core.job import JobSpec

_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)


class BeatEntries:
    """The occurrences of one Celery beat scheduler, as entries."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._seen: Any = None
        self._is_watched = False

    def is_watched(self) -> bool:
        """Return whether `apply_entry` was replaced."""
        kind = type(self._scheduler)
        apply_entry = kind.apply_entry
        if apply_entry is not self._seen:
            self._seen = apply_entry
            self._is_watched = not is_library_code(kind, "apply_entry")
        return self._is_watched or "apply_entry" in vars(self._scheduler)

    def apply(self, spec: JobSpec, send: Send, options: dict[str, Any]) -> Any:
        """Send one occurrence through `apply_entry`. Raises the errors of publishing."""
        assert spec.task is not None
        app, call = self._scheduler.app, live_call(spec.task)
        entry = OccurrenceEntry(
            name=spec.name,
            task=call.name,
            schedule=celery_schedule(spec, app),
            args=tuple(call.args),
            kwargs=dict(call.kwargs),
            options=options,
            app=app,
        )
        entry.send = send
        # `apply_entry` logs an error and swallows it.
        self._scheduler.apply_entry(entry, producer=None)
        if entry.error is not None:
            raise entry.error
        return entry.result


class OccurrenceEntry(ScheduleEntry):  # type: ignore[misc]  # Celery carries no types
    """One occurrence as an entry, with the result of sending it."""

    send: Send
    error: Exception | None = None
    result: Any = None

    def publish(self) -> Any:
        """Send the occurrence with its current options. Raises the errors of `apply_async`."""
        try:
            self.result = self.send(self.options)
        except Exception as error:
            self.error = error
            raise
        return self.result


def celery_schedule(spec: JobSpec, app: Any) -> BaseSchedule:
    """Return the project's own schedule object for a job of `beat_schedule`; else an equivalent.

    If Celery has no equivalent, return an interval as long as between the next two occurrences.
    """
    entries = app.conf.beat_schedule
    entry = entries.get(spec.name) if isinstance(entries, Mapping) else None
    given = entry.get("schedule") if isinstance(entry, Mapping) else None
    if given is not None and not isinstance(given, str):
        return maybe_schedule(given, app=app)
    compiled = spec.compiled()
    if compiled.kind is ScheduleKind.CRON:
        # Celery's parser knows fewer expressions than ours.
        with suppress(ParseException, ValueError):
            return crontab.from_string(compiled.text)
    if compiled.period_seconds:
        return schedule(timedelta(seconds=compiled.period_seconds), app=app)
    first = compiled.next_after(_ANY_TIME)
    second = compiled.next_after(first) if first else None
    return schedule(second - first if first and second else timedelta(0), app=app)
