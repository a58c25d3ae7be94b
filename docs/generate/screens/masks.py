"""Replaces what differs from run to run by something of the same width that never does.

Ids are numbered in the order in which they appear. A job's next run is the one that its schedule
has at `NOW`; any other time is `NOW` itself.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from hermes_celery.schedule import parse

ZONE = "Europe/Berlin"
#: A Monday, in the zone of the scenes.
NOW = datetime(2027, 1, 4, 8, 15, tzinfo=ZoneInfo(ZONE))
#: As wide as the directory that the scenes are played in.
HOME = "/home/ada"
_HOST = "web-1"
_UTC = NOW.astimezone(UTC)
_JOB_ID = re.compile(r"\b[0-9a-f]{12}\b")
_RUN = re.compile(r"(?<=-)\d{8}T\d{6}(?:\.\d{3})?Z(-[0-9a-f]{8})?")
#: A local time without its offset; those that `explain` prints are the same at any time.
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?(?![\d:+-])")
_PATTERNS = (
    (
        re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00"),
        f"{_UTC:%Y-%m-%dT%H:%M:%S}.000+00:00",
    ),
    (re.compile(r"(?m)^\d\d:\d\d:\d\d(?=  )"), f"{_UTC:%H:%M:%S}"),
    (re.compile(r"\b\d+\.\d\d s\b"), "0.05 s"),
    (re.compile(r"(?<=is up \()[\d.]+ s"), "2.4 s"),
    (re.compile(r"\bprocess \d+"), "process 4102"),
    (re.compile(rf"(?<={_HOST}:)\d+(:[0-9a-f]{{8}})?"), r"4102\1"),
    (re.compile(r"(?<=:4102:)[0-9a-f]{8}"), "5d0c7a1e"),
    (re.compile(r"Valkey \d+\.\d+\.\d+"), "Valkey 9.1.0"),
    (re.compile(r"\d+\.\d+M used"), "2.99M used"),
    (re.compile(r"\d+(?:\.\d+)? GB free"), "41.3 GB free"),
)


class Masks:
    """The masks of all scenes together, so that an id is the same in each of them."""

    def __init__(self, *, home: str) -> None:
        if len(home) != len(HOME):
            raise ValueError(f"{home} must be as long as {HOME}, so that lines end where they do")
        self._home = home
        self._ids: dict[str, str] = {}
        self._next_runs: dict[str, str] = {}

    def note_next_runs(self, jobs: Mapping[str, str]) -> None:
        """Note the schedule of each job, by its next run as `--json` prints it."""
        for next_run_at, schedule in jobs.items():
            following = parse(schedule, timezone=ZONE, now=NOW).next_after(NOW)
            if next_run_at and following is not None:
                self._next_runs[_local(datetime.fromisoformat(next_run_at))] = _local(following)

    def masked(self, text: str) -> str:
        """Return what a command printed, with its ids, times and places masked."""
        text = text.replace(self._home, HOME).replace(f"{socket.gethostname()}:", f"{_HOST}:")
        text = _JOB_ID.sub(lambda found: self._id(found[0]), text)
        text = _RUN.sub(lambda found: f"{_UTC:%Y%m%dT%H%M%S}.000Z" + self._suffix(found[1]), text)
        text = _TIME.sub(self._time, text)
        text = re.sub(r"(?<=next due )\S+ \S+", min(self._next_runs.values(), default=""), text)
        for pattern, stand_in in _PATTERNS:
            text = pattern.sub(stand_in, text)
        return text

    def _time(self, found: re.Match[str]) -> str:
        return self._next_runs.get(found[0], _local(NOW))[: len(found[0])]

    def _suffix(self, given: str | None) -> str:
        return f"-{self._id(given[1:])}" if given else ""

    def _id(self, given: str) -> str:
        number = str(len(self._ids))
        digest = hashlib.sha256(number.encode()).hexdigest()[: len(given)]
        return self._ids.setdefault(given, digest)


def _local(instant: datetime) -> str:
    return f"{instant.astimezone(NOW.tzinfo):%Y-%m-%d %H:%M:%S}"
