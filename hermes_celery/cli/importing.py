"""`import`: the sources that jobs can be imported from; their readers are in `interop/`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hermes_celery.cli.exit_codes import ExitCode
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
    """The arguments of `import`."""

    #: A path, or the name of another scheduler.
    source: str
    file: Path | None
    timezone: str | None
    dry_run: bool
    prefix: str | None
    url: str | None

    def check(self) -> None:
        """Refuse arguments that exclude each other. Raises UsageError."""
        if self.source == _DJANGO and self.file is None:
            raise click.UsageError(
                "give the file: python manage.py dumpdata django_celery_beat > beat.json, then "
                "hermes-celery import django-celery-beat beat.json"
            )
        if self.source != _DJANGO and self.file is not None:
            raise click.UsageError(f"{self.source} takes no file")
        if self.source != _REDBEAT and (self.prefix, self.url) != (None, None):
            raise click.UsageError("--prefix and --url are for redbeat only")
        if self.source not in (_REDBEAT, _DJANGO) and self.dry_run:
            raise click.UsageError("--dry-run is for redbeat and django-celery-beat only")

    def zone(self, otherwise: Callable[[], str]) -> str:
        """Return the given zone, else the result of `otherwise`. Raises SettingsError."""
        return checked_timezone(self.timezone) if self.timezone else otherwise()


@click.command("import")
@click.argument("source", metavar="PATH|redbeat|django-celery-beat")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--timezone",
    "--tz",
    metavar="ZONE",
    help="The zone of schedules that name none. Default: the zone that the app of -A sets (not for "
    "PATH), else HERMES_TIMEZONE, else the host's.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Change nothing; report which jobs would be made or refused. Not for PATH.",
)
@click.option(
    "--prefix",
    metavar="PREFIX",
    help="redbeat: the prefix of its keys. Default: the one that the app of -A sets, else redbeat:",
)
@click.option(
    "--url",
    metavar="URL",
    help="redbeat: the URL of its Redis. Default: the one that the app of -A sets, else the "
    "server of hermes-celery.",
)
@json_option
def import_jobs(as_json: bool, **typed: Any) -> None:
    """Import jobs from PATH (a Hermes home or a jobs.json), from RedBeat, or from Django.

    `import redbeat` reads RedBeat's keys in Redis. `import django-celery-beat FILE` reads what
    `manage.py dumpdata django_celery_beat` wrote. Stop the other beat first: its entries are not
    changed. Importing again makes no second job.
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
        raise SystemExit(ExitCode.FAILED)


def _taken_over(given: _Given) -> ImportReport | TakeoverReport:
    settings = read_settings()
    if given.source == _REDBEAT:
        opened = open_redbeat(settings, app=project(), prefix=given.prefix, url=given.url)
        entries, source = redbeat.entries_of(opened.records()), redbeat.SOURCE
        if not entries:
            print_note(
                f"RedBeat has no entry under the prefix {opened.prefix!r} on that server; give "
                "the right place with --prefix and --url"
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
