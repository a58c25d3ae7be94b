"""Tests that entries of RedBeat and django-celery-beat are reported and imported on request."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from hermes_celery.core.run import RunState
from hermes_celery.store import Database, connect
from hermes_celery.store.keys import Keys
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system

DATA = Path(__file__).parent.parent / "data"


def put_redbeat_keys(database: Database) -> None:
    """Write the keys of a RedBeat, in which two entries last ran in 2020."""
    keys: dict[str, Any] = json.loads((DATA / "redbeat/2.4.2.json").read_text(encoding="utf-8"))
    for key, value in keys.items():
        if isinstance(value, list):
            database.call("SADD", key, *value)
        elif "definition" in value:
            database.call("HSET", key, *(part for item in value.items() for part in item))
        else:
            for member, score in value.items():
                database.call("ZADD", key, str(score), member)
    long_ago = json.dumps(
        {"last_run_at": {"__type__": "datetime", "year": 2020, "month": 1, "day": 1}}
    )
    for name in ("ran-before", "with-a-date"):
        database.call("HSET", f"redbeat:{name}", "meta", long_ago)


def app(bed: Bed, *arguments: str) -> tuple[int, str]:
    done = bed.command("-A", "moved", *arguments)
    return done.returncode, done.stdout + done.stderr


def test_entries_of_redbeat_are_reported_shown_and_imported_once(tmp_path: Path) -> None:
    with Bed("moved", tmp_path) as bed:
        left = Database(connect(bed.server.url), keys=Keys(namespace=bed.name))
        put_redbeat_keys(left)
        worker, beat = bed.worker(), bed.beat()
        bed.await_worker()
        eventually(lambda: "schedule.left_behind" in bed.log(beat), what="a log line about them")
        assert "10 entries of RedBeat under redbeat: no longer run" in bed.log(beat)
        assert "10 entries of RedBeat" in app(bed, "doctor")[1]

        code, shown = app(bed, "import", "redbeat", "--dry-run")
        assert code == 1, shown
        assert "would import" in shown
        assert "nothing was written: 9 to import, 1 kept as they are, 1 refused" in shown
        assert "refused  last-friday: its rrule has rules by bysetpos, byweekday" in shown
        assert "static-one: declared in beat_schedule" in shown
        # An entry's countdown becomes part of the schedule.
        assert " eta: 5 * * * * delayed " in shown
        assert json.loads(app(bed, "list", "--json")[1]) == []

        assert "9 imported, 1 kept as they are, 1 refused" in app(bed, "import", "redbeat")[1]
        jobs = {job["name"]: job for job in json.loads(app(bed, "list", "--json")[1])}
        assert len(jobs) == 9
        assert jobs["disabled"]["state"] == "paused"
        assert jobs["nightly-report"]["timezone"] == "Europe/Berlin"
        # Both are overdue since 2020; like Celery's beat, make one run for all missed occurrences.
        for job in ("ran-before", "with-a-date"):
            bed.await_run(job, lambda run: run.state is RunState.SUCCEEDED)
        # The argument keeps its type.
        assert bed.await_notes("dated")[0][:2] == ["dated", "datetime"]

        again = app(bed, "import", "redbeat")[1]
        assert "0 imported, 10 kept as they are, 1 refused" in again
        assert len(json.loads(app(bed, "list", "--json")[1])) == 9
        assert "1 entry of RedBeat under redbeat: no longer runs" in app(bed, "doctor")[1]
        assert int(left.call("ZCARD", "redbeat::schedule")) == 11
        assert "Traceback" not in bed.log(worker) + bed.log(beat)
        left.close()


def test_entries_of_django_celery_beat_are_imported_from_its_dump(tmp_path: Path) -> None:
    with Bed("moved", tmp_path) as bed:
        file = tmp_path / "beat.json"
        shutil.copy(DATA / "django-celery-beat/2.9.0.json", file)
        code, shown = app(bed, "import", "django-celery-beat", str(file), "--dry-run")
        assert code == 1, shown
        assert "refused  Sunrise: its schedule is solar" in shown
        assert "celery.backend_cleanup: django-celery-beat adds it by itself" in shown
        found = re.search(r"nothing was written: (\d+) to import, 1 kept as they are", shown)
        assert found is not None
        count = int(found[1])
        assert count == 11
        done = app(bed, "import", "django-celery-beat", str(file))[1]
        assert f"{count} imported, 1 kept as they are" in done
        again = app(bed, "import", "django-celery-beat", str(file))[1]
        assert f"0 imported, {count + 1} kept as they are" in again
        assert len(json.loads(app(bed, "list", "--json")[1])) == count

        bed.up()
        report = bed.command("-A", "moved", "run", "Poll the bank")
        assert report.returncode == 0, report.stderr
        bed.await_run("Poll the bank", lambda run: run.state is RunState.SUCCEEDED)
        assert ["poll", "1", "two"] in [row[:3] for row in bed.notes("poll")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["django-celery-beat"], "dumpdata django_celery_beat > beat.json"),
        (["redbeat", "x.json"], "redbeat takes no file"),
        (["django-celery-beat", "none.json"], "none.json cannot be read"),
        (["somewhere", "--dry-run"], "--dry-run is for redbeat and django-celery-beat only"),
        (["somewhere", "--prefix", "x"], "--prefix and --url are for redbeat only"),
    ],
)
def test_an_import_with_wrong_arguments_says_what_to_type(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    with Bed("moved", tmp_path) as bed:
        code, shown = app(bed, "import", *arguments)
        assert code in (1, 2)
        assert said in shown
