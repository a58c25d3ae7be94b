"""Tests the smallest project, with two lines for the package."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hermes_celery.core.run import Run, RunState, Trigger
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system


def test_the_smallest_project_runs_its_job_and_records_the_runs(tmp_path: Path) -> None:
    with Bed("plain", tmp_path) as bed:
        bed.up()
        bed.await_notes("tick", 3)
        bed.await_run("tick", lambda run: run.state is RunState.SUCCEEDED)


def test_runs_started_without_the_app_go_to_the_projects_queue_at_once(
    tmp_path: Path,
) -> None:
    with Bed("plain", tmp_path) as bed:
        (bed.home / "scripts" / "hello.sh").write_text("echo hello\n", encoding="utf-8")
        bed.up()
        bed.await_notes("tick", 1)
        for schedule, name in (("every 1h", "hi"), ("* * * * *", "each minute")):
            added = bed.hermes(
                "add", schedule, "--script", "hello.sh", "--no-agent", "--name", name
            )
            assert added.returncode == 0, added.stderr
        # On a wrong queue the run would start only after a minute, by rescue.
        bed.hermes("run", "hi")
        bed.await_run("hi", lambda run: run.state is RunState.SUCCEEDED, seconds=20)
        now = datetime.now(UTC)
        since, until = (f"{now - timedelta(seconds=s):%Y-%m-%dT%H:%M:%SZ}" for s in (200, 70))
        again = bed.hermes("backfill", "each minute", "--from", since, "--to", until)
        assert again.returncode == 0, again.stderr
        eventually(
            lambda: sum(map(is_backfilled, bed.runs("each minute"))) == 2, seconds=20,
            what="the backfilled runs",
        )  # fmt: skip
        twice = bed.hermes("backfill", "each minute", "--from", since, "--to", until)
        assert twice.stdout == "nothing to do: each has its run\n"
        never = bed.hermes("backfill", "hi", "--from", since, "--to", until)
        assert "nothing to do: 'hi' has no occurrence from" in never.stdout, never.stderr


@pytest.mark.parametrize("command", [("beat",), ("worker", "--beat", "-c", "1")], ids=" ".join)
def test_a_beat_with_another_scheduler_warns_and_names_the_option(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    with Bed("plain", tmp_path) as bed:
        kept = ("--schedule", str(tmp_path / "celerys-own-schedule"))
        foreign = bed.celery(*command, "-l", "WARNING", *kept)
        eventually(lambda: "beat.other_scheduler" in bed.log(foreign), what="the warning")
        assert "celery.beat:PersistentScheduler" in bed.log(foreign)
        assert "-S hermes" in bed.log(foreign)
        ours = bed.celery(*command, "-l", "WARNING", "--scheduler", "hermes", *kept)
        bed.await_leader()
        assert "beat.other_scheduler" not in bed.log(ours)


def is_backfilled(run: Run) -> bool:
    return run.trigger is Trigger.BACKFILL and run.state is RunState.SUCCEEDED
