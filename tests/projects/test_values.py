"""Tests that arguments, options and schedules of a project mean the same as under Celery's beat."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hermes_celery.core.run import RunState
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system

VALUES = {
    "instant": "datetime.datetime(2024,1,2,0,0,tzinfo=datetime.timezone.utc)",
    "day": "datetime.date(2024,1,2)",
    "time": "datetime.time(3,4)",
    "uuid": "UUID('00000000-0000-0000-0000-000000000005')",
    "decimal": "Decimal('1.10')",
    "bytes": "b'abc'",
    "inf": "inf",
}


def test_arguments_options_and_names_arrive_unchanged(tmp_path: Path) -> None:
    with Bed("typed", tmp_path) as bed:
        worker = bed.worker("-Q", "celery,{celery}", C_FORCE_ROOT="1")
        beat = bed.beat()
        for word in ("json", "pickle", "linked", "told", "added", "queue", "blanks"):
            bed.await_notes(word)
        bed.await_notes("json", len(VALUES) + 1)
        bed.await_notes("pickle", len(VALUES) + 2)
        day = ("0", VALUES["day"])
        assert values(bed, "json") == {**VALUES, **dict([day])}, bed.log(worker)
        exact = {"0": f"(1,[{VALUES['day']}])", "1": "{1:-inf}"}
        assert values(bed, "pickle") == {**VALUES, **exact}
        assert values(bed, "linked") == dict([day])
        assert bed.notes("told")[0][1:3] == ["a", "10"]
        assert bed.notes("added")[0][1:3] == ["b", "0"]
        assert bed.notes("queue")[0][1] == "{celery}"
        bed.await_run("half", lambda run: run.state is RunState.SUCCEEDED)
        eventually(lambda: len(bed.runs("half")) > 3, what="four runs of half")
        halves = [run.due_at for run in bed.runs("half")]
        distances = {later - earlier for later, earlier in pairwise(halves)}
        assert distances == {timedelta(seconds=0.5)}
        jobs = {job["name"]: job for job in json.loads(bed.hermes("list", "--json").stdout)}
        (long,) = [name for name in jobs if "xxx" in name]
        assert len(long) <= 200
        bed.await_run(long, lambda run: run.state is RunState.SUCCEEDED)
        assert jobs["function"]["fault"].startswith("kwargs['then'] is a function <lambda>")
        assert "give a number of seconds, here 300, or a datetime" in jobs["lifetime"]["fault"]
        beat.terminate()
        beat.wait(20)
        again = bed.beat()
        eventually(lambda: "beat.leads" in bed.log(again), what="the next leader")
        assert "job.changed" not in bed.log(again)
        task = jobs["values"]["task"]
        assert task["kwargs"]["day"] == {"__type__": "date", "__value__": "2024-01-02"}
        assert "exact" not in task
        shown = bed.hermes("show", "values").stdout
        assert "typed.values('json', datetime.date(2024, 1, 2), instant=datetime" in shown


def values(bed: Bed, word: str) -> dict[str, str]:
    """Return the noted value of each argument, over all runs."""
    return {name: value for _, name, value, _ in bed.notes(word)}


def test_calendar_schedules_mean_the_same_as_in_celery(tmp_path: Path) -> None:
    with Bed("calendars", tmp_path) as bed:
        bed.beat()
        listed = eventually(lambda: declared(bed), what="the declared jobs")
        assert isinstance(listed, dict)
        jobs = {name: job for name, job in listed.items() if job["state"] == "scheduled"}
        texts = {name: job["schedule"].get("expr") for name, job in jobs.items()}
        assert texts == {
            "night": "0 0-3,22,23 * * *",
            "steps": "0 0,2,4,6,20,22 * * *",
            "thirds": "0,20,40 3 * * *",
            "autumn": "0 0 1 9 *",
            "days": "0 9 * * 2,4",
            "first": "0 22 1-7 * +6",
            "odd": "0 0 */2 * 1",
            "workdays": "0 0 * * 1-5",
            "tokyo": "0 9 * * *",
            "fixed": "0 9 * * *",
            "rounded": "0 * * * *",
            "later": "0 9 * * * delayed 10s",
            "fraction": None,
            "entry": None,
        }
        assert jobs["fraction"]["schedule_display"] == "every 1m30.5s"
        next_runs = {name: datetime.fromisoformat(job["next_run_at"]) for name, job in jobs.items()}
        # 09:00 in Tokyo, and 09:00 at UTC+8.
        assert next_runs["tokyo"].astimezone(UTC).time().isoformat() == "00:00:00"
        assert next_runs["fixed"].astimezone(UTC).time().isoformat() == "01:00:00"
        assert next_runs["later"] - next_runs["fixed"] == timedelta(seconds=10)
        first = next_runs["first"] + timedelta(hours=8)
        assert (first.day <= 7, first.weekday(), first.hour) == (True, 5, 22)
        assert jobs["night"]["timezone"] == "+08:00"
        refused = {name: job["fault"] for name, job in listed.items() if name not in jobs}
        assert refused.keys() == REFUSED.keys()
        for name, why in REFUSED.items():
            assert refused[name].startswith(why), name
        shown = bed.hermes("next", "every 0.5s", "-n", "2", "--from", "2026-01-01T00:00")
        assert shown.stdout.split() == [
            "2026-01-01T00:00:00.500000+00:00", "2026-01-01T00:00:01+00:00"
        ]  # fmt: skip
        added = bed.hermes("add", "every 0.5s", "--script", "a.sh", "--no-agent")
        assert "every 0.5s" in added.stdout or "a.sh" in added.stderr, added


REFUSED = {
    "lunar": "a Lunar decides with its own is_due when it is due",
    "naive": "the nowfun of its crontab returns a time without a zone",
    "tiny": "an interval of 0.01 s is too short; the shortest is 0.1 s",
    "unknown": "it has the key enabeld",
    "text": "its args are 'abc'; give a list",
    "idle": "it has no schedule; give it one",
    "instant": "the option eta is not accepted: a schedule has many instants",
}


def declared(bed: Bed) -> dict[str, dict[str, Any]] | None:
    """Return the project's jobs by name, or None until all are stored."""
    listed: subprocess.CompletedProcess[str] = bed.hermes("list", "--json")
    jobs = {job["name"]: job for job in json.loads(listed.stdout or "[]")}
    return jobs if {"rounded", *REFUSED} <= jobs.keys() else None
