"""Tests that a task that raises a BaseException ends its run at once under every pool."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_celery.core.run import Run, RunState
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system

_ODD = {
    "cancelled": "CancelledError: c",
    "odd": "Odd: o",
    "greenlet_exit": "GreenletExit: g",
    "interrupted": "KeyboardInterrupt",
    "exits": "SystemExit: 3",
}
#: Less than the 15 s after which a missing heartbeat is noticed.
_AT_ONCE_SECONDS = 10


def ended(bed: Bed, job: str) -> Run:
    return bed.await_run(job, lambda run: run.state.is_final)


def took(run: Run) -> float:
    assert run.started_at is not None
    assert run.finished_at is not None
    return (run.finished_at - run.started_at).total_seconds()


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_a_base_exception_fails_its_run_at_once(tmp_path: Path, pool: str) -> None:
    # In a pool process these two end the process, so the run is lost.
    ends_process = {"interrupted", "exits"} if pool == "prefork" else set()
    with Bed("escapes", tmp_path) as bed:
        bed.up("-P", pool, "-c", "1" if pool == "solo" else "5")
        for job in _ODD:
            bed.run(job)
        put = "import escapes; escapes.direct.delay()"
        assert bed.start(sys.executable, "-c", put).wait(timeout=30) == 0
        for job, error in _ODD.items():
            run = ended(bed, job)
            wanted = RunState.LOST if job in ends_process else RunState.FAILED
            assert run.state is wanted, run
            assert job in ends_process or run.error == error
            assert took(run) < _AT_ONCE_SECONDS
        bed.await_notes("direct")
        bed.run("plain")
        assert ended(bed, "plain").state is RunState.SUCCEEDED, "the worker still performs runs"
        assert "no message was unreadable" in bed.hermes("letters").stdout


@pytest.fixture(scope="module")
def gevent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Bed("escapes", tmp_path_factory.mktemp("escapes")) as bed:
        bed.up("-P", "gevent", "-c", "5")
        for job in ("hang", "own_timer", "slow", "hang_again"):
            bed.run(job)
        yield bed


def test_a_run_that_reaches_its_hard_time_limit_under_gevent_is_timed_out_at_once(
    gevent: Bed,
) -> None:
    run = ended(gevent, "hang")
    assert (run.state, run.error) == (
        RunState.TIMED_OUT,
        "Celery's hard time limit of 2 s was reached",
    )
    assert took(run) < _AT_ONCE_SECONDS


def test_a_run_that_reached_its_hard_time_limit_under_gevent_is_retried(gevent: Bed) -> None:
    run = ended(gevent, "hang_again")
    assert (run.state, run.attempt) == (RunState.TIMED_OUT, 2)


def test_a_tasks_own_timer_under_gevent_does_not_count_as_a_time_limit(gevent: Bed) -> None:
    run = ended(gevent, "own_timer")
    assert (run.state, run.error) == (RunState.FAILED, "Timeout: 0.2 seconds")


def test_a_task_terminated_under_gevent_is_cancelled_at_once(gevent: Bed) -> None:
    gevent.await_notes("slow")
    run = gevent.await_run("slow", lambda run: run.state is RunState.RUNNING)
    gevent.celery("control", "terminate", "SIGTERM", run.id)
    run = ended(gevent, "slow")
    assert run.state is RunState.CANCELLED, run
    assert took(run) < _AT_ONCE_SECONDS


def test_a_solo_worker_outlives_the_shell_that_started_it(tmp_path: Path) -> None:
    with Bed("escapes", tmp_path) as bed:
        pid_file = tmp_path / "worker.pid"
        shell = bed.start(
            "sh", "-c", f'"$@" & echo $! > {pid_file}; wait', "sh",
            sys.executable, "-m", "celery", "-A", "escapes", "worker", "-P", "solo",
        )  # fmt: skip
        try:
            bed.await_worker()
            bed.beat()
            shell.kill()
            shell.wait()
            bed.run("plain")
            assert ended(bed, "plain").state is RunState.SUCCEEDED
        finally:
            eventually(pid_file.exists, what="the worker's process id")
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
