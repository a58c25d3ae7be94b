"""Tests projects whose own code publishes a task slowly: no occurrence is late or lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hermes_celery.core.run import RunState
from tests.pace import quiet_seconds_until
from tests.projects.bed import Bed

pytestmark = pytest.mark.system
_SLOW = 8


def test_occurrences_are_in_time_after_a_leader_died_while_it_built_messages(
    tmp_path: Path,
) -> None:
    """The next leader builds messages as slowly, and still rescues the lost ones in time."""
    with Bed("dawdling", tmp_path) as bed:
        bed.environment |= {"EVERY": "6", "SLOW": str(_SLOW)}
        bed.worker()
        beat = bed.beat()
        bed.await_worker()
        bed.await_notes("builds", 2)
        os.killpg(beat.pid, signal.SIGKILL)
        bed.beat()
        took = quiet_seconds_until(
            lambda: all(_first_is_over(bed, number) for number in range(_SLOW)),
            what="the first occurrence of every job",
            seconds=100,
        )
        assert took < 20


def _first_is_over(bed: Bed, number: int) -> bool:
    runs = sorted(bed.runs(f"slow-{number}"), key=lambda run: run.due_at)
    return bool(runs) and runs[0].state is RunState.SUCCEEDED


def test_a_message_built_for_longer_than_the_lease_is_pushed_despite_a_second_beat(
    tmp_path: Path,
) -> None:
    with Bed("dawdling", tmp_path) as bed:
        bed.environment |= {"EVERY": "4", "SLOW": "1", "DAWDLES": "1.4"}
        bed.worker()
        bed.await_worker()
        bed.beat()
        bed.beat()
        bed.await_notes("slow", 2, seconds=30)
        assert len(bed.notes("builds")) <= len(bed.notes("slow")) + 1
