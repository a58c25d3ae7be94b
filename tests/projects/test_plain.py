"""The smallest project runs, with nothing but its two lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermes_celery.run import RunState
from tests.projects.bed import Bed

pytestmark = pytest.mark.system


def test_the_smallest_project_runs_at_every_tick_and_each_run_is_on_record(tmp_path: Path) -> None:
    with Bed("plain", tmp_path) as bed:
        bed.up()
        bed.await_notes("tick", 3)
        bed.await_run("tick", lambda run: run.state is RunState.SUCCEEDED)
