"""`next` and `explain`: check what a schedule means before you give it to a job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from itertools import islice

import click

from hermes_celery.cli.options import ScheduleCommand, json_option
from hermes_celery.cli.scope import default_zone
from hermes_celery.cli.terminal import print_labelled, print_table
from hermes_celery.errors import HermesCeleryError
from hermes_celery.instant import from_ms
from hermes_celery.schedule import Schedule, parse
from hermes_celery.schedule.forms import FORMS
from hermes_celery.schedule.moments import moment_ms, read_moment
from hermes_celery.schedule.time_zones import find_zone
from hermes_celery.settings import default_timezone

_EXPLAINED = 5


@click.command("next", cls=ScheduleCommand)
@click.argument("expression", metavar="EXPR")
@click.option(
    "--tz",
    metavar="ZONE",
    help="The schedule's zone. Default: that of the -A app, else HERMES_TIMEZONE, else the host's.",
)
@click.option("--from", "start", metavar="ISO", help="Print instants after this one. Default: now.")
@click.option(
    "-n",
    "count",
    metavar="N",
    type=click.IntRange(1, 10_000),
    help="Print at most this many. Default: 5; with --until 10,000.",
)
@click.option("--until", metavar="ISO", help="Print no instants after this one.")
@json_option
def next_command(
    expression: str,
    tz: str | None,
    start: str | None,
    count: int | None,
    until: str | None,
    as_json: bool,
) -> None:
    """Print the next instants of a schedule.

    EXPR is a cron expression, a phrase ('every monday 9am'), an interval ('every 30m') or a time
    ('in 2h', '2027-03-28T14:00'). Times without an offset are local in the schedule's zone.
    `--json` prints a list of ISO instants, each with the zone's offset.
    """
    try:
        zone = tz or default_zone()
        after = datetime.now(UTC) if start is None else _instant(start, zone)
        schedule = parse(expression, timezone=zone, now=after)
        last = None if until is None else _instant(until, zone)
    except HermesCeleryError as error:
        raise click.ClickException(str(error)) from None
    # With an end and without a number, all instants up to the end are meant.
    limit = count or (_EXPLAINED if last is None else 10_000)
    shown = _zone(tz or schedule.timezone)
    texts = [
        instant.astimezone(shown).isoformat()
        for instant in islice(_upcoming(schedule, after, last), limit)
    ]
    if as_json:
        click.echo(json.dumps(texts))
    elif texts:
        click.echo("\n".join(texts))
    else:
        click.echo(f"{expression!r} has no instant in that time.", err=True)


def _print_forms(context: click.Context, parameter: click.Parameter, is_given: bool) -> None:
    """Print all forms of a schedule and end the command, if `--forms` was given."""
    if not is_given:
        return
    for number, (heading, forms) in enumerate(FORMS.items()):
        click.echo(("\n" if number else "") + click.style(heading, bold=True))
        for form in forms:
            print_labelled("  ", form.meaning)
            for example in form.examples:
                click.echo(f"    {example}")
    context.exit()


@click.command("explain", cls=ScheduleCommand)
@click.argument("expression", metavar="EXPR")
@click.option(
    "--forms",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_forms,
    help="Print every form in which EXPR can be written, with examples.",
)
@click.option(
    "--tz",
    metavar="ZONE",
    help="The schedule's zone. Default: that of the -A app, else HERMES_TIMEZONE, else the host's.",
)
@click.option("--from", "start", metavar="ISO", help="Show instants after this one. Default: now.")
def explain_command(expression: str, tz: str | None, start: str | None) -> None:
    """Explain a schedule in words: normal form, next instants, and warnings.

    EXPR is written as for `next`.
    """
    try:
        own, zone = default_timezone(), tz or default_zone()
        now = datetime.now(UTC) if start is None else _instant(start, zone)
        schedule = parse(expression, timezone=zone, now=now)
        from hermes_celery.schedule.explaining import explain  # cron-descriptor costs 25 ms

        explanation = explain(schedule, now=now)
    except HermesCeleryError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{explanation.words}.")
    click.echo(f"Normal form: {explanation.normal_form}  ({explanation.timezone})")
    _print_upcoming(schedule, now, own)
    for warning in explanation.warnings:
        print_labelled("Warning: ", warning)


def _print_upcoming(schedule: Schedule, now: datetime, own: str) -> None:
    zones = list(dict.fromkeys([schedule.timezone, own]))
    labels = ("Next",) if len(zones) == 1 else ("Next in the job's zone", "Next in your zone")
    columns = [f"{label}, {zone}" for label, zone in zip(labels, zones, strict=True)]
    instants = list(islice(_upcoming(schedule, now, None), _EXPLAINED))
    local = [[instant.astimezone(_zone(zone)) for zone in zones] for instant in instants]
    rows = [[f"{at:%a} {at.isoformat(' ')}" for at in row] for row in local]
    print_table(columns, rows, empty="It has no instant after that time.")


def _upcoming(schedule: Schedule, after: datetime, last: datetime | None) -> Iterator[datetime]:
    instant = schedule.next_after(after)
    while instant is not None and (last is None or instant <= last):
        yield instant
        instant = schedule.next_after(instant)


def _instant(text: str, zone: str) -> datetime:
    """Read an ISO time; without an offset it is local in `zone`. Raises ScheduleError."""
    return from_ms(moment_ms(read_moment(text), timezone=zone))


def _zone(name: str) -> tzinfo:
    return find_zone(name).for_display()
