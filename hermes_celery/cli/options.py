"""Options and parameter types that several commands share: `--json`, and times."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import click

from hermes_celery.errors import ScheduleError
from hermes_celery.settings import default_timezone

#: The one `--json` option of all commands: they print the same values with it as without it.
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


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
            self.fail(f"{value!r} is not an ISO time such as 2027-03-28T14:00", param, ctx)
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
            self.fail(f"{value!r} is neither an ISO time nor a duration like 2h", param, ctx)
        return now - (ahead - now)
