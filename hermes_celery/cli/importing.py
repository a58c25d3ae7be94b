"""`import`: take over jobs from a Hermes home, from RedBeat, or from django-celery-beat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes_celery.cli.scope import default_zone, open_cron, project, read_settings
from hermes_celery.cli.screen import print_json
from hermes_celery.settings import checked_timezone

if TYPE_CHECKING:
    from hermes_celery.interop.hermes.home import ImportReport
    from hermes_celery.interop.takeover import TakeoverReport

_REDBEAT = "redbeat"
_DJANGO = "django-celery-beat"


@click.command("import")
@click.argument("source", metavar="PATH|redbeat|django-celery-beat")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--timezone", "--tz", metavar="ZONE", help="What schedules without one are meant in.")
@click.option("--dry-run", is_flag=True, help="Only say what would be made, and what is refused.")
@click.option("--prefix", help="Of RedBeat's keys. Default: the app's of -A, else redbeat:")
@click.option("--url", help="The Redis that RedBeat uses. Default: the app's of -A, else ours.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, times in UTC.")
def import_jobs(
    source: str,
    file: Path | None,
    timezone: str | None,
    dry_run: bool,
    prefix: str | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Take over the jobs of PATH (a Hermes home or a jobs.json), of RedBeat, or of Django.

    `import redbeat` reads the keys that RedBeat has in Redis; `import django-celery-beat FILE` what
    `manage.py dumpdata django_celery_beat` wrote. Stop the other beat first: nothing is changed
    there. Doing it again makes no second job.
    """
    _check_usage(source, file, given=prefix is not None or url is not None, dry_run=dry_run)
    if source == _REDBEAT:
        report: ImportReport | TakeoverReport = _from_redbeat(
            prefix, url, timezone=timezone, dry_run=dry_run
        )
    elif source == _DJANGO and file is not None:
        report = _from_django(file, timezone=timezone, dry_run=dry_run)
    else:
        report = _from_home(Path(source), timezone=timezone)
    if as_json:
        print_json(report)
    else:
        for line in report.lines():
            click.echo(line)
    if report.refused:
        raise SystemExit(1)


def _check_usage(source: str, file: Path | None, *, given: bool, dry_run: bool) -> None:
    if source == _DJANGO and file is None:
        raise click.UsageError(
            "give the file: python manage.py dumpdata django_celery_beat > beat.json, then "
            "hermes-celery import django-celery-beat beat.json"
        )
    if source != _DJANGO and file is not None:
        raise click.UsageError(f"{source} takes no file")
    if source != _REDBEAT and given:
        raise click.UsageError("--prefix and --url are RedBeat's")
    if source not in (_REDBEAT, _DJANGO) and dry_run:
        raise click.UsageError("--dry-run is for redbeat and django-celery-beat")


def _zone(timezone: str | None) -> str:
    """The zone given, else that of the app, else ours."""
    if timezone:
        return checked_timezone(timezone)
    return default_zone()


def _from_home(path: Path, *, timezone: str | None) -> ImportReport:
    from hermes_celery.interop.hermes.home import import_jobs as from_home

    settings = read_settings()
    zone = checked_timezone(timezone) if timezone else settings.timezone
    return from_home(open_cron(settings), path, timezone=zone)


def _from_redbeat(
    prefix: str | None, url: str | None, *, timezone: str | None, dry_run: bool
) -> TakeoverReport:
    from hermes_celery.interop.redbeat import SOURCE, entries_of
    from hermes_celery.interop.takeover import take_over
    from hermes_celery.wiring.other_beats import open_redbeat

    settings = read_settings()
    entries = entries_of(open_redbeat(settings, app=project(), prefix=prefix, url=url).records())
    return take_over(
        open_cron(settings), entries, source=SOURCE, timezone=_zone(timezone), dry_run=dry_run
    )


def _from_django(path: Path, *, timezone: str | None, dry_run: bool) -> TakeoverReport:
    from hermes_celery.interop.django_celery_beat import SOURCE, entries_of
    from hermes_celery.interop.takeover import take_over

    entries = entries_of(path)
    return take_over(
        open_cron(read_settings()),
        entries,
        source=SOURCE,
        timezone=_zone(timezone),
        dry_run=dry_run,
    )
