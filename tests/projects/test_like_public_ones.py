"""Tests projects with the settings of public projects: two added lines are all they need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hermes_celery.core.run import RunState, Trigger
from tests.projects.bed import Bed

pytestmark = pytest.mark.system

#: Project -> the entries due within seconds, the entries that are triggered by hand, and the tasks
#: that those publish.
PROJECTS = {
    "bookshop": (
        ("release-reserved-books", "send-queued-mail"),
        ("morning-report", "close-the-month", "weekly-newsletter"),
        {"letter": 3},
    ),
    "scraper": (
        ("crawl-news", "index-pages"),
        ("crawl-archive", "clean-up"),
        {},
    ),
    "flaskish": (("refresh-scores", "ping"), ("prune-profiles", "refresh-all-scores"), {}),
    "legacy": (
        ("count-every-two-seconds", "poll"),
        ("back-up-at-night", "month-end"),
        {"total": 1},
    ),
}


@pytest.mark.parametrize("project", PROJECTS)
def test_a_project_with_public_settings_needs_two_added_lines_only(
    project: str, tmp_path: Path
) -> None:
    often, rare, published = PROJECTS[project]
    with Bed(project, tmp_path) as bed:
        worker = bed.worker("-Q", "celery,mail") if project == "bookshop" else bed.worker()
        beat = bed.beat()
        bed.await_worker()
        bed.await_leader()
        for entry in often:
            bed.await_notes(entry, 2)
            run = bed.await_run(entry, lambda run: run.state is RunState.SUCCEEDED)
            assert run.trigger is Trigger.SCHEDULE
        for entry in rare:
            triggered = bed.hermes("run", entry)
            assert triggered.returncode == 0, triggered.stderr
            bed.await_notes(entry)
            bed.await_run(entry, lambda run: run.state is RunState.SUCCEEDED)
        for word, count in published.items():
            bed.await_notes(word, count)
        listed = json.loads(bed.hermes("list", "--json", "--all").stdout)
        states = {job["name"]: job["state"] for job in listed}
        assert {*often, *rare} <= states.keys()
        assert set(states.values()) == {"scheduled"}
        logs = bed.log(worker) + bed.log(beat)
        assert "Traceback" not in logs, logs
