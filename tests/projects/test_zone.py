"""Tests the default time zone of a project's jobs: the app's zone, not the host's."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from hermes_celery.store import Jobs
from tests.projects.bed import Bed

pytestmark = pytest.mark.system


def test_a_job_added_to_a_project_uses_the_time_zone_of_its_app(tmp_path: Path) -> None:
    with Bed("dawdling", tmp_path) as bed:
        task = ("--task", "dawdling.plain", "--args", '["x"]')

        def zone_of(name: str, *before: str, after: tuple[str, ...] = ()) -> str:
            added = bed.command(*before, "add", "0 9 * * *", *task, "--name", name, *after)
            assert added.returncode == 0, added.stderr
            return Jobs(bed.database()).find(name).spec.timezone

        assert bed.environment["HERMES_TIMEZONE"] == "UTC"
        assert zone_of("app's", "-A", "dawdling") == "Europe/Berlin"
        assert zone_of("own", "-A", "dawdling", after=("--tz", "Asia/Tokyo")) == "Asia/Tokyo"
        assert zone_of("host's", "-N", "dawdling") == "UTC"
        # A job's bounds and the preview of a schedule use the same zone.
        zone_of("bounded", "-A", "dawdling", after=("--start", "2099-01-01T00:00"))
        midnight = datetime(2099, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))
        assert Jobs(bed.database()).find("bounded").spec.start_ms == midnight.timestamp() * 1000
        previewed = bed.command("-A", "dawdling", "next", "0 9 * * *", "--json")
        first = datetime.fromisoformat(json.loads(previewed.stdout)[0])
        assert first.astimezone(midnight.tzinfo).hour == 9
