"""Options that several commands share: times, bounds of a schedule, policies."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import click
import msgspec

from hermes_celery.errors import ScheduleError
from hermes_celery.policy import CatchUp, OnLost, Overlap, Policy
from hermes_celery.settings import default_timezone

_Decorator = Callable[[Any], Any]


class Instant(click.ParamType[datetime]):
    """An ISO time; without an offset it is local in the user's zone."""

    name = "time"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """The instant, aware."""
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no ISO time such as 2027-03-28T14:00", param, ctx)
        return instant if instant.tzinfo else instant.replace(tzinfo=ZoneInfo(default_timezone()))


class Since(Instant):
    """An ISO time, or how long ago: `2h`, `30m`, `1d`."""

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """The instant, aware."""
        if value[:4].isdigit() and value[4:5] in ("-", ""):
            return super().convert(value, param, ctx)
        from hermes_celery.schedule import parse

        now = datetime.now(UTC)
        try:
            ahead = parse(f"in {value}", now=now).next_after(now)
        except ScheduleError:
            ahead = None
        if ahead is None:
            self.fail(f"{value!r} is neither an ISO time nor a duration like 2h", param, ctx)
        return now - (ahead - now)


_BOUNDS: tuple[_Decorator, ...] = (
    click.option("--start", type=Instant(), metavar="TIME", help="Not before this time."),
    click.option("--end", type=Instant(), metavar="TIME", help="Not after this time."),
    click.option(
        "--except",
        "exclude",
        multiple=True,
        metavar="EXPR",
        help='Not on these: a date, or a cron expression such as "* * 24-26 12 *".',
    ),
    click.option(
        "--jitter",
        "jitter_seconds",
        type=click.IntRange(0),
        metavar="SECONDS",
        help="Spread its runs by up to so much, the same way each time.",
    ),
)

_POLICY: tuple[_Decorator, ...] = (
    click.option(
        "--overlap",
        type=click.Choice([choice.value for choice in Overlap]),
        help="What to do while an earlier run is not over.",
    ),
    click.option("--max-active", type=int, metavar="N", help="With --overlap allow."),
    click.option(
        "--catch-up",
        type=click.Choice([choice.value for choice in CatchUp]),
        help="Which missed occurrences run.",
    ),
    click.option("--catch-up-limit", type=int, metavar="N", help="With --catch-up all."),
    click.option(
        "--grace", "grace_seconds", type=int, metavar="SECONDS", help="How late is still on time."
    ),
    click.option(
        "--expires",
        "expires_seconds",
        type=int,
        metavar="SECONDS",
        help="Drop a run that no worker took so long after its time.",
    ),
    click.option("--retries", type=int, metavar="N", help="Further attempts after a failed one."),
    click.option(
        "--retry-wait",
        "retry_wait_seconds",
        type=int,
        metavar="SECONDS",
        help="Before the first of them; doubles each time.",
    ),
    click.option(
        "--on-lost",
        type=click.Choice([choice.value for choice in OnLost]),
        help="What to do with a run whose worker died: at most once, or at least once.",
    ),
    click.option(
        "--pause-after", type=int, metavar="N", help="Pause it after so many failures in a row."
    ),
)

_TYPES: dict[str, Callable[[str], object]] = {
    "overlap": Overlap,
    "catch_up": CatchUp,
    "on_lost": OnLost,
}


def bound_options(command: Any) -> Any:
    """`--start --end --except --jitter`."""
    return _decorated(command, _BOUNDS)


def policy_options(command: Any) -> Any:
    """`--overlap --catch-up --retries ...`."""
    return _decorated(command, _POLICY)


def taken_policy(fields: dict[str, Any]) -> dict[str, Any]:
    """Take the policy's fields out of what was typed: those that were given, as values."""
    given = {}
    for name in Policy.__struct_fields__:
        value = fields.pop(name, None)
        if value is not None:
            given[name] = _TYPES[name](value) if name in _TYPES else value
    return given


def changed_policy(policy: Policy, given: dict[str, Any]) -> Policy:
    """The policy with what was given; without `overlap: allow` a `max_active` of before goes."""
    changed = msgspec.structs.replace(policy, **given)
    if changed.overlap is not Overlap.ALLOW and "max_active" not in given:
        return msgspec.structs.replace(changed, max_active=None)
    return changed


def _decorated(command: Any, options: tuple[_Decorator, ...]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command
