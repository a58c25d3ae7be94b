"""Options and parameter types that several commands share: `--json`, and times."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import click

from hermes_celery.core.counted import counted
from hermes_celery.errors import ScheduleError, shown
from hermes_celery.settings import default_timezone

#: How many characters of unexpected arguments are shown.
_SHOWN = 40
#: The one `--json` option of all commands: they print the same values with it as without it.
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


class ScheduleCommand(click.Command):
    """A command that takes a schedule; too many arguments mean that its quotes are missing."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; refuse extra ones and say where quotes belong."""
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            ctx.fail(
                f"Got {counted(len(rest), 'argument')} too many ({_shortened(rest)}). Put the "
                'schedule in quotes, such as "0 9 * * 1-5", and each other text with blanks: '
                "without them the shell splits it, and writes the names of files for *"
            )
        return rest


def _shortened(words: list[str]) -> str:
    shown = " ".join(words)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN].rstrip()} ..."


class Instant(click.ParamType[datetime]):
    """A parameter type for an ISO time; without an offset it is local in the user's zone."""

    name = "time"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return the instant as an aware datetime."""
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{shown(value)} is not an ISO time such as 2027-03-28T14:00", param, ctx)
        return instant if instant.tzinfo else instant.replace(tzinfo=ZoneInfo(default_timezone()))


class Since(Instant):
    """A parameter type for an ISO time or a duration before now: `2h`, `30m`, `1d`."""

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return the instant as an aware datetime."""
        if value[:4].isdigit() and value[4:5] in ("-", ""):
            return super().convert(value, param, ctx)
        # Imported here to start fast: only a duration needs the parser of schedules.
        from hermes_celery.schedule import parse

        now = datetime.now(UTC)
        try:
            ahead = parse(f"in {value}", now=now).next_after(now)
        except ScheduleError:
            ahead = None
        if ahead is None:
            self.fail(f"{shown(value)} is neither an ISO time nor a duration like 2h", param, ctx)
        return now - (ahead - now)
