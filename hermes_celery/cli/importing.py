"""`import`: the sources that jobs can be taken over from; their readers lie in `interop/`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hermes_celery.cli.options import json_option
from hermes_celery.cli.scope import default_zone, project, read_settings
from hermes_celery.cli.screen import print_json
from hermes_celery.cli.store_access import open_cron
from hermes_celery.cli.terminal import print_note
from hermes_celery.interop import django_celery_beat, redbeat
from hermes_celery.interop.hermes.home import ImportReport
from hermes_celery.interop.hermes.home import import_jobs as import_home
from hermes_celery.interop.takeover import TakeoverReport, take_over
from hermes_celery.settings import checked_timezone
from hermes_celery.wiring.foreign_schedules import open_redbeat

_REDBEAT = "redbeat"
_DJANGO = "django-celery-beat"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What was typed after `import`."""

    #: A path, or the name of another scheduler.
    source: str
    file: Path | None
    timezone: str | None
    dry_run: bool
    prefix: str | None
    url: str | None

    def check(self) -> None:
        """Refuse what does not go together. Raises UsageError."""
        if self.source == _DJANGO and self.file is None:
            raise click.UsageError(
                "give the file: python manage.py dumpdata django_celery_beat > beat.json, then "
                "hermes-celery import django-celery-beat beat.json"
            )
        if self.source != _DJANGO and self.file is not None:
            raise click.UsageError(f"{self.source} takes no file")
        if self.source != _REDBEAT and (self.prefix, self.url) != (None, None):
            raise click.UsageError("--prefix and --url are RedBeat's")
        if self.source not in (_REDBEAT, _DJANGO) and self.dry_run:
            raise click.UsageError("--dry-run is for redbeat and django-celery-beat")

    def zone(self, otherwise: Callable[[], str]) -> str:
        """The zone that was given, else that of `otherwise`. Raises SettingsError."""
        return checked_timezone(self.timezone) if self.timezone else otherwise()


@click.command("import")
@click.argument("source", metavar="PATH|redbeat|django-celery-beat")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--timezone", "--tz", metavar="ZONE", help="What schedules without one are meant in.")
@click.option("--dry-run", is_flag=True, help="Only say what would be made, and what is refused.")
@click.option("--prefix", help="Of RedBeat's keys. Default: the app's of -A, else redbeat:")
@click.option("--url", help="The Redis that RedBeat uses. Default: the app's of -A, else ours.")
@json_option
def import_jobs(as_json: bool, **typed: Any) -> None:
    """Take over the jobs of PATH (a Hermes home or a jobs.json), of RedBeat, or of Django.

    `import redbeat` reads the keys that RedBeat has in Redis; `import django-celery-beat FILE` what
    `manage.py dumpdata django_celery_beat` wrote. Stop the other beat first: nothing is changed
    there. Doing it again makes no second job.
    """
    given = _Given(**typed)
    given.check()
    report = _taken_over(given)
    if as_json:
        print_json(report)
    else:
        for line in report.lines():
            click.echo(line)
    if report.refused:
        raise SystemExit(1)


def _taken_over(given: _Given) -> ImportReport | TakeoverReport:
    settings = read_settings()
    if given.source == _REDBEAT:
        opened = open_redbeat(settings, app=project(), prefix=given.prefix, url=given.url)
        entries, source = redbeat.entries_of(opened.records()), redbeat.SOURCE
        if not entries:
            print_note(
                f"RedBeat has no entry under the prefix {opened.prefix!r} there; --prefix and "
                "--url say where its entries are"
            )
    elif given.source == _DJANGO and given.file is not None:
        entries, source = django_celery_beat.entries_of(given.file), django_celery_beat.SOURCE
    else:
        zone = given.zone(lambda: settings.timezone)
        return import_home(open_cron(settings), Path(given.source), timezone=zone)
    return take_over(
        open_cron(settings),
        entries,
        source=source,
        timezone=given.zone(default_zone),
        dry_run=given.dry_run,
    )
