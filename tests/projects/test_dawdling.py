"""Tests projects whose own code publishes a task slowly: no occurrence is late or lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from hermes_celery.core.run import RunState
from tests.projects.bed import Bed
from tests.support import eventually

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
        killed_at = time.time()
        bed.beat()
        for number in range(_SLOW):
            bed.await_run(f"slow-{number}", lambda run: run.state is RunState.SUCCEEDED)
        eventually(
            lambda: all(_first_is_over(bed, number) for number in range(_SLOW)),
            what="the first occurrence of every job",
            seconds=60,
        )
        assert time.time() - killed_at < 20


def _first_is_over(bed: Bed, number: int) -> bool:
    first = min(bed.runs(f"slow-{number}"), key=lambda run: run.due_at)
    return first.state is RunState.SUCCEEDED


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
