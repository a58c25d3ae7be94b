"""Every message that Celery ends by itself ends its run, with what Celery said."""

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
    """The end of the run of a job that was asked for."""
    return bed.await_run(job, lambda run: run.state.is_final)


def is_told(bed: Bed, run: Run) -> bool:
    """Whether people hear of a run's end: it is delivered, or nobody is there to hear."""
    found = bed.runs(run.job_name)[0].delivery
    return found is not DeliveryState.PENDING


def test_a_rejected_message_is_a_failed_run(bed: Bed) -> None:
    run = ended(bed, "reject")
    assert (run.state, run.error) == (RunState.FAILED, "its task rejected the message: not today")
    eventually(lambda: is_told(bed, run), what="its incident")
    assert "not today" in bed.hermes("incidents").stdout


def test_a_message_that_is_put_back_goes_on_with_its_run(bed: Bed) -> None:
    run = ended(bed, "reject_once")
    assert run.state is RunState.SUCCEEDED, run
    assert len(bed.notes("reject_once")) == 2


def test_a_task_that_no_worker_knows_fails_at_once_by_its_name(bed: Bed) -> None:
    run = ended(bed, "unknown")
    assert run.state is RunState.FAILED
    assert "its task 'endings.is_nowhere' is not registered on this worker" in (run.error or "")
    advice = "let the queue's workers import the task's module"
    assert advice in (run.error or "")
    assert advice in bed.hermes("letters").stderr
    told = bed.hermes("doctor").stdout
    assert f"'endings.is_nowhere' is not registered on this worker; {advice}" in told, told


@pytest.mark.parametrize("job", ["hang", "hang_as_the_job_says"])
def test_a_hard_time_limit_is_timed_out_at_once(bed: Bed, job: str) -> None:
    run = ended(bed, job)
    assert run.state is RunState.TIMED_OUT
    assert run.error == "Celery's hard time limit of 2 s was reached"
    assert took(run) < 6


def took(run: Run) -> float:
    """Seconds from a run's beginning to its end."""
    assert run.started_at is not None
    assert run.finished_at is not None
    return (run.finished_at - run.started_at).total_seconds()


@pytest.mark.parametrize(
    ("job", "error"),
    [("die", "signal 9 (SIGKILL)"), ("exits", "SystemExit 3")],
)
def test_a_process_that_died_is_lost_at_once(bed: Bed, job: str, error: str) -> None:
    run = ended(bed, job)
    assert run.state is RunState.LOST
    assert error in (run.error or "")
    assert took(run) < 13, "not by its heartbeat"


def test_a_task_that_asks_for_it_runs_again_when_its_process_died(bed: Bed) -> None:
    run = ended(bed, "die_once")
    assert (run.state, run.attempt) == (RunState.SUCCEEDED, 2), run
    assert len(bed.notes("die_once")) == 2


def test_a_task_that_fails_before_its_body_is_a_failed_run(bed: Bed) -> None:
    run = ended(bed, "careful")
    assert (run.state, run.error) == (RunState.FAILED, "RuntimeError: no licence")


def test_a_task_that_leaves_out_its_body_is_skipped(bed: Bed) -> None:
    run = ended(bed, "guarded")
    assert (run.state, run.reason) == (
        RunState.SKIPPED,
        "its task returned without calling its body",
    )
    assert ended(bed, "called").state is RunState.SUCCEEDED


def test_a_task_of_celerys_own_runs_at_every_tick(bed: Bed) -> None:
    def succeeded() -> bool:
        return sum(run.state is RunState.SUCCEEDED for run in bed.runs("cleanup")) >= 3

    eventually(succeeded, what="three runs of celery.backend_cleanup")


def test_a_task_that_is_registered_late_is_a_run_too(bed: Bed) -> None:
    bed.await_notes("late", 2)
    eventually(
        lambda: sum(run.state is RunState.SUCCEEDED for run in bed.runs("late")) >= 2,
        what="two runs of the late task",
    )
