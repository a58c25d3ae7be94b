"""Tests that a revoke, an expired message and a pool's time limit end a run at once."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hermes_celery.core.run import Run, RunState
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system

_REVOKE = (
    "import sys, endings; endings.app.control.revoke(sys.argv[1], terminate=len(sys.argv) > 2)"
)
_REVOKE_STAMP = "import endings; endings.app.control.revoke_by_stamped_headers({'team': 'blue'})"


def took(run: Run) -> float:
    """Return the seconds from a run's start to its end."""
    assert run.started_at is not None
    assert run.finished_at is not None
    return (run.finished_at - run.started_at).total_seconds()


def is_stale(run: Run) -> bool:
    """Return whether a queued run's message has expired."""
    is_old = datetime.now(UTC) - run.queued_at > timedelta(seconds=3.5)
    return run.state is RunState.QUEUED and is_old


def revoke(bed: Bed, run_id: str, *how: str) -> None:
    """Call `app.control.revoke` in a process of its own."""
    assert bed.start(sys.executable, "-c", _REVOKE, run_id, *how).wait(timeout=30) == 0


def test_an_expired_or_revoked_run_behind_a_long_run_ends_without_being_executed(
    tmp_path: Path,
) -> None:
    with Bed("endings", tmp_path) as bed:
        worker = bed.worker("-c", "1")
        bed.await_worker()
        bed.beat()
        bed.await_leader()
        bed.run("block")
        bed.await_notes("block")
        revoked, forgotten = bed.run("plain"), bed.run("reject")
        revoke(bed, revoked)
        run = bed.await_run("plain", lambda run: run.state.is_final)
        assert (run.state, run.reason) == (RunState.CANCELLED, "revoked")
        eventually(lambda: any(map(is_stale, bed.runs("short"))), what="an expired run")
        revoke(bed, bed.runs("block")[0].id, "terminate")
        run = bed.await_run("block", lambda run: run.state.is_final)
        assert (run.state, run.reason) == (RunState.CANCELLED, "revoked")
        run = bed.await_run("short", lambda run: (run.reason or "").startswith("expired"))
        assert run.state is RunState.SKIPPED
        assert (
            run.reason == "expired: its message was older than its `expires` when a worker took it"
        )
        bed.await_notes("short")
        bed.await_notes("reject")
        assert forgotten in {run.id for run in bed.runs("reject")}
        worker.terminate()
        worker.wait(timeout=30)
        bed.worker("-c", "1")
        before = len(bed.notes("short"))
        bed.await_notes("short", before + 2)
        assert not bed.notes("plain")


def test_a_revoke_reaches_workers_without_a_free_slot(tmp_path: Path) -> None:
    with Bed("endings", tmp_path) as bed:
        bed.worker("-c", "1", "-n", "first@here", NO_PREFETCH="1")
        bed.await_worker()
        bed.beat()
        bed.await_leader()
        bed.run("block")
        bed.await_notes("block")
        bed.worker("-c", "1", "-n", "second@here", "--pool", "threads", NO_PREFETCH="1")
        slow = bed.run("slow")
        bed.await_notes("slow")
        plain, stamped = bed.run("plain"), bed.run("stamped")
        revoke(bed, plain)
        run = bed.await_run("plain", lambda run: run.state.is_final)
        assert (run.id, run.state) == (plain, RunState.CANCELLED)
        assert bed.start(sys.executable, "-c", _REVOKE_STAMP).wait(timeout=30) == 0
        bed.cron().cancel(slow)
        run = bed.await_run("stamped", lambda run: run.state.is_final)
        assert (run.id, run.state, run.reason) == (stamped, RunState.CANCELLED, "revoked")
        bed.await_notes("late", len(bed.notes("late")) + 2)
        assert not bed.notes("plain")


@pytest.mark.parametrize(
    ("options", "state", "why"),
    [
        (("--time-limit", "2"), RunState.TIMED_OUT, "Celery's hard time limit of 2 s was reached"),
        (("--pool", "threads"), RunState.CANCELLED, "revoked"),
    ],
)
def test_a_pool_ends_a_run_at_its_time_limit_or_on_a_revoke(
    tmp_path: Path, options: tuple[str, ...], state: RunState, why: str
) -> None:
    with Bed("endings", tmp_path) as bed:
        bed.up("-c", "2", *options)
        asked = bed.run("slow")
        bed.await_notes("slow")
        if state is RunState.CANCELLED:
            revoke(bed, asked, "terminate")
        run = bed.await_run("slow", lambda run: run.state.is_final, seconds=20)
        assert (run.id, run.state, run.error or run.reason) == (asked, state, why)
        assert took(run) < 10
