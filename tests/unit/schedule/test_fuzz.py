"""For any text, `parse` returns a schedule or raises our own error, and it is fast."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from hermes_celery.schedule import ScheduleError, from_hermes, parse
from hermes_celery.schedule.explaining import explain
from tests.pace import Pace, own_seconds, quiet_seconds

NOW = datetime(2026, 6, 22, 12, tzinfo=UTC)
LATER = datetime(2027, 6, 22, 12, tzinfo=UTC)
ZONES = ("UTC", "Europe/Berlin", "Pacific/Apia", "America/Nuuk", "+05:45")
ALPHABET = "0123456789*/-,?LW#HR()@|: .+amonfriyvedtjansuTZ=\n\t¹٣é"
WORDS = (
    *("every", "each", "daily", "weekdays", "weekend", "monday", "tue,fri", "and", "at", "on"),
    *("in", "noon", "9am", "17:30", "7", "30m", "1h30m", "90s", "hour", "day", "2d", "w"),
    *("@daily", "@every", "@reboot", "|", "CRON_TZ=Asia/Tokyo", "2027-03-28T02:30", "2027-02-30"),
)
#: Items that are valid in one field may be invalid in another; the fuzzer needs both.
NUMBERS = ("*", "*", "*/2", "*/7", "*/90", "0", "5", "5-5", "0-23", "10-20/15", "H", "H/5", "*,1")
ITEMS = (
    NUMBERS,
    NUMBERS,
    ("*", "?", "*/2", "L", "LW", "L-3", "L-3W", "L-30", "15W", "31W", "W1", "1W,15W", "29-L", "31"),
    ("*", "*", "2", "jan", "feb,apr", "nov-feb", "*/3", "12", "H"),
    ("*", "?", "mon", "mon-fri", "fri-mon", "5L", "friL", "fri#2", "fri#L", "1#5", "7", "*/2"),
    NUMBERS,
    ("*", "2030", "2026-2099", "1970", "2030/3", "*/4"),
)
WRONG = ("60", "99", "17-9", "R", "L", "1#6", "2099", "¹", "5/", "-1", "x", "10-15W", "+")


def text(chance: random.Random) -> str:
    way = chance.random()
    if way < 0.7:
        return _fields(chance)
    if way < 0.75:
        return " ".join(str(chance.randrange(32)) for _ in range(5))
    if way < 0.9:
        return " ".join(chance.choice(WORDS) for _ in range(chance.randrange(1, 6)))
    return "".join(chance.choice(ALPHABET) for _ in range(chance.randrange(40)))


def _fields(chance: random.Random) -> str:
    fields = [
        ",".join(
            chance.choice(WRONG) if chance.random() < 0.04 else chance.choice(items)
            for _ in range(chance.choice((1, 1, 2)))
        )
        for items in ITEMS
    ]
    return " ".join(fields[: chance.choice((5, 5, 5, 5, 6, 7, 4))])


def fuzz(count: int, *, seed: int) -> None:
    """Parse many texts and ask each schedule in both directions; 1 ms each is the limit."""
    chance = random.Random(seed)
    for zone in ZONES:
        parse("0 0 * * *", timezone=zone)
    read, faults, slowest, taken, pace = 0, set(), 0.0, 0.0, Pace()
    began = own_seconds()
    for number in range(count):
        if number % 100 == 0:
            taken += own_seconds() - began
            pace.turn()
            began = own_seconds()
        typed = text(chance)
        zone = chance.choice(ZONES)
        started = own_seconds()
        try:
            schedule = parse(typed, timezone=zone, now=NOW, spread="fuzz")
        except ScheduleError as refused:
            faults.add(str(refused))
            continue
        finally:
            slowest = max(slowest, own_seconds() - started)
        read += 1
        following, latest = schedule.next_after(NOW), schedule.latest_until(NOW)
        slowest = max(slowest, own_seconds() - started)
        assert following is None or following > NOW
        assert latest is None or latest <= NOW
    assert read > count / 3
    assert len(faults) > count / 20
    assert all(faults)
    taken += own_seconds() - began
    assert taken < count * 0.001 * pace.slowness
    # A search without bounds takes longer.
    assert slowest < 1 * pace.slowness


def test_ten_thousand_texts_are_each_read_or_refused_within_a_millisecond() -> None:
    fuzz(10_000, seed=1)


@pytest.mark.slow
def test_a_hundred_thousand_texts_are_each_read_or_refused_within_a_millisecond() -> None:
    fuzz(100_000, seed=2)


def test_every_parsed_text_can_be_explained_and_stored() -> None:
    chance = random.Random(3)
    for _ in range(1500):
        try:
            schedule = parse(text(chance), timezone="Europe/Berlin", now=NOW, spread="fuzz")
        except ScheduleError:
            continue
        assert explain(schedule, now=NOW).words[0].isupper()
        again = from_hermes(
            schedule.to_hermes(), timezone=schedule.timezone, now=NOW, spread="fuzz"
        )
        assert again.between(NOW, LATER, limit=5) == schedule.between(NOW, LATER, limit=5)


@pytest.mark.parametrize(
    "expression",
    ["0 0 29 2 1#5", "0 0 29 2 */6 0 2096", "59 59 * * * *", "0 0 L-30 * 0", "0 0 31W 12 *"],
)
@pytest.mark.parametrize("zone", ZONES)
def test_rare_instants_are_found_or_refused_at_once(expression: str, zone: str) -> None:
    def ask() -> None:
        with suppress(ScheduleError):
            schedule = parse(expression, timezone=zone)
            schedule.next_after(NOW)
            schedule.latest_until(NOW)

    # Once only: a second time would find the answer in a cache.
    assert quiet_seconds(ask, turns=1) < 1
