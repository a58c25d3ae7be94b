"""Tests that a run ends at once, with Celery's reason, if Celery itself ends its message."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hermes_celery.core.run import DeliveryState, Run, RunState
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system

_ASKED = ("die_once", "die", "exits", "hang", "hang_as_the_job_says", "reject", "reject_once",
          "unknown", "careful", "guarded", "called")  # fmt: skip


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Bed("endings", tmp_path_factory.mktemp("endings")) as bed:
        bed.up("-c", "4")
        for job in _ASKED:
            bed.run(job)
        yield bed


def ended(bed: Bed, job: str) -> Run:
    """Run a job and return its finished run."""
    return bed.await_run(job, lambda run: run.state.is_final)


def is_delivered(bed: Bed, run: Run) -> bool:
    """Return whether a run's outcome was delivered, or has no delivery."""
    found = bed.runs(run.job_name)[0].delivery
    return found is not DeliveryState.PENDING


def test_a_rejected_message_fails_its_run(bed: Bed) -> None:
    run = ended(bed, "reject")
    assert (run.state, run.error) == (RunState.FAILED, "its task rejected the message: not today")
    eventually(lambda: is_delivered(bed, run), what="its incident")
    assert "not today" in bed.hermes("incidents").stdout


def test_a_requeued_message_continues_its_run(bed: Bed) -> None:
    run = ended(bed, "reject_once")
    assert run.state is RunState.SUCCEEDED, run
    assert len(bed.notes("reject_once")) == 2


def test_an_unregistered_task_fails_at_once_with_its_name(bed: Bed) -> None:
    run = ended(bed, "unknown")
    assert run.state is RunState.FAILED
    assert "its task 'endings.is_nowhere' is not registered on this worker" in (run.error or "")
    advice = "let the queue's workers import the task's module"
    assert advice in (run.error or "")
    assert advice in bed.hermes("letters").stderr
    told = bed.hermes("doctor").stdout
    assert f"'endings.is_nowhere' is not registered on this worker; {advice}" in told, told


@pytest.mark.parametrize("job", ["hang", "hang_as_the_job_says"])
def test_a_run_that_reaches_its_hard_time_limit_is_timed_out_at_once(bed: Bed, job: str) -> None:
    run = ended(bed, job)
    assert run.state is RunState.TIMED_OUT
    assert run.error == "Celery's hard time limit of 2 s was reached"
    assert took(run) < 6


def took(run: Run) -> float:
    """Return the seconds from a run's start to its end."""
    assert run.started_at is not None
    assert run.finished_at is not None
    return (run.finished_at - run.started_at).total_seconds()


@pytest.mark.parametrize(
    ("job", "error"),
    [("die", "signal 9 (SIGKILL)"), ("exits", "SystemExit 3")],
)
def test_a_run_whose_process_died_is_lost_at_once(bed: Bed, job: str, error: str) -> None:
    run = ended(bed, job)
    assert run.state is RunState.LOST
    assert error in (run.error or "")
    assert took(run) < 13, "it was not found by its missing heartbeat"


def test_a_task_with_reject_on_worker_lost_runs_again_after_its_process_died(bed: Bed) -> None:
    run = ended(bed, "die_once")
    assert (run.state, run.attempt) == (RunState.SUCCEEDED, 2), run
    assert len(bed.notes("die_once")) == 2


def test_a_task_that_fails_before_its_body_fails_its_run(bed: Bed) -> None:
    run = ended(bed, "careful")
    assert (run.state, run.error) == (RunState.FAILED, "RuntimeError: no licence")


def test_a_run_whose_task_never_calls_its_body_is_skipped(bed: Bed) -> None:
    run = ended(bed, "guarded")
    assert (run.state, run.reason) == (
        RunState.SKIPPED,
        "its task returned without calling its body",
    )
    assert ended(bed, "called").state is RunState.SUCCEEDED


def test_a_builtin_task_of_celery_runs_at_every_occurrence(bed: Bed) -> None:
    def succeeded() -> bool:
        return sum(run.state is RunState.SUCCEEDED for run in bed.runs("cleanup")) >= 3

    eventually(succeeded, what="three runs of celery.backend_cleanup")


def test_a_task_registered_when_the_worker_starts_runs_too(bed: Bed) -> None:
    bed.await_notes("late", 2)
    eventually(
        lambda: sum(run.state is RunState.SUCCEEDED for run in bed.runs("late")) >= 2,
        what="two runs of the late task",
    )
