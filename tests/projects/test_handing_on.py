"""Tests runs that their task hands on: to a replacement, a chain, a retry or a new message."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hermes_celery.core.run import Run, RunState
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system

_PLAIN = ("single", "immutable", "pages", "elsewhere", "one_link", "long_chain", "broken_chain",
          "again", "own_id", "and_raises", "unheard", "retried", "in_vain", "automatic", "parent",
          "after_its_end", "unawaited", "unwound", "unkept", "unasked", "put_back", "survives",
          "beyond_help", "to_nobody", "to_gibberish")  # fmt: skip
_WITH_RESULTS = (*_PLAIN, "many", "crowd", "bad_crowd")


@pytest.fixture(scope="module", params=["without a result backend", "with one"])
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Bed("handing_on", tmp_path_factory.mktemp("handing_on")) as bed:
        has_results = request.param == "with one"
        if has_results:
            bed.environment["RESULTS"] = bed.server.url
        bed.up("-c", "3", "-Q", "celery,other")
        for job in _WITH_RESULTS if has_results else _PLAIN:
            bed.run(job)
        yield bed


def ended(bed: Bed, job: str) -> Run:
    """Wait until a job's only run has finished and return it."""
    run = bed.await_run(job, lambda run: run.state.is_final)
    assert len(bed.runs(job)) == 1
    return run


def output(bed: Bed, run: Run) -> str:
    """Return the output of a run: the result of its last task."""
    return bed.cron().runs.output(run.id).decode()


@pytest.mark.parametrize("job", ["single", "immutable", "elsewhere", "one_link", "long_chain"])
def test_the_replacement_of_a_task_finishes_its_run(bed: Bed, job: str) -> None:
    run = ended(bed, job)
    assert (run.state, output(bed, run), run.attempt) == (RunState.SUCCEEDED, f"leaf {job}", 1)
    assert len(bodies(bed, job)) == 1
    assert len([note for note in bed.notes("leaf") if note[1] == job]) == 1
    assert len([note for note in bed.notes("step") if note[1] == job]) == 2 * (job == "long_chain")


def bodies(bed: Bed, job: str) -> list[list[str]]:
    """Return one note per execution of the task's own body."""
    return [note for note in bed.notes("body") if note[1] == job]


def test_a_callback_of_the_job_is_called_after_the_replacement(bed: Bed) -> None:
    ended(bed, "immutable")
    bed.await_notes("linked", 1)
    assert len(bed.notes("linked")) == 1


def test_a_task_replaced_by_itself_is_one_run(bed: Bed) -> None:
    run = ended(bed, "pages")
    assert (run.state, output(bed, run)) == (RunState.SUCCEEDED, "page 2")
    assert [note[2] for note in bodies(bed, "pages")] == ["0", "1", "2"]


def test_a_failing_chain_fails_the_run_handed_on_to_it(bed: Bed) -> None:
    run = ended(bed, "broken_chain")
    assert run.state is RunState.FAILED
    assert run.error == (
        "its task handed it on, and the task handing_on.bad failed: "
        "ValueError: broken_chain does not work"
    )


@pytest.mark.parametrize(("job", "step"), [("put_back", "turned_away"), ("survives", "dies_once")])
def test_a_redelivered_step_does_not_end_the_run_handed_on_to_it(
    bed: Bed, job: str, step: str
) -> None:
    run = ended(bed, job)
    assert (run.state, output(bed, run)) == (RunState.SUCCEEDED, f"leaf {job}")
    assert len(bed.notes(step)) == 2


def test_a_step_whose_process_died_without_a_retry_fails_the_run(bed: Bed) -> None:
    run = ended(bed, "beyond_help")
    assert run.state is RunState.FAILED
    assert (run.error or "").startswith(
        "its task handed it on, and the task handing_on.dies failed: the worker's process died: "
    )


@pytest.mark.parametrize(
    ("job", "why"),
    [
        ("to_nobody", "the task not.there: its task 'not.there' is not registered on this worker"),
        ("to_gibberish", "the task handing_on.step: its header shadow is an object"),
    ],
)
def test_a_step_that_no_worker_can_take_fails_the_run_handed_on_to_it(
    bed: Bed, job: str, why: str
) -> None:
    run = ended(bed, job)
    assert run.state is RunState.FAILED
    assert run.error == (
        f"its task handed it on, and no worker can take {why}; see `hermes-celery letters`"
    )


@pytest.mark.parametrize(
    ("job", "last"),
    [("again", "retry 1"), ("own_id", "turn 1"), ("and_raises", "turn 1"), ("retried", "retried")],
)
def test_a_run_whose_task_sends_itself_again_ends_with_the_last_message(
    bed: Bed, job: str, last: str
) -> None:
    run = ended(bed, job)
    assert (run.state, output(bed, run)) == (RunState.SUCCEEDED, last)
    assert len(bodies(bed, job)) == (3 if job == "retried" else 2)


@pytest.mark.parametrize(
    ("job", "error"), [("in_vain", "KeyError: 'in vain'"), ("automatic", "ZeroDivisionError")]
)
def test_a_task_without_retries_left_fails_its_run(bed: Bed, job: str, error: str) -> None:
    run = ended(bed, job)
    assert run.state is RunState.FAILED
    assert error in (run.error or "")
    assert len(bodies(bed, job)) == 2


def test_a_run_whose_retry_could_not_be_published_is_queued_and_can_be_cancelled(bed: Bed) -> None:
    bed.await_notes("body")
    eventually(lambda: bodies(bed, "unheard"), what="its first attempt")
    run = bed.await_run("unheard", lambda run: run.state is RunState.QUEUED)
    assert bed.cron().cancel(run.id) == "cancelled"


@pytest.mark.parametrize("job", ["unawaited", "unwound"])
def test_a_task_whose_body_never_ran_fails_its_run(bed: Bed, job: str) -> None:
    run = ended(bed, job)
    assert run.state is RunState.FAILED
    assert "its body never ran" in (run.error or "")
    assert not bodies(bed, job)


def test_a_task_whose_result_cannot_be_stored_ends_as_in_celery(bed: Bed) -> None:
    run, unasked = ended(bed, "unkept"), ended(bed, "unasked")
    assert unasked.state is RunState.SUCCEEDED
    if "RESULTS" not in bed.environment:
        assert run.state is RunState.SUCCEEDED
        return
    assert run.state is RunState.FAILED
    assert (run.error or "").startswith("EncodeError: the result backend cannot keep what it ")
    stored = json.loads(bed.database().client.get(f"celery-task-meta-{run.id}"))
    assert (stored["status"], stored["result"]["exc_type"]) == ("FAILURE", "EncodeError")


def test_a_task_published_by_a_run_is_not_a_run(bed: Bed) -> None:
    run = ended(bed, "parent")
    assert (run.state, output(bed, run)) == (RunState.SUCCEEDED, "parent")
    eventually(lambda: ["leaf", "child"] in [note[:2] for note in bed.notes()], what="the child")


def test_a_message_sent_again_after_the_end_is_executed_but_does_not_change_the_run(
    bed: Bed,
) -> None:
    run = ended(bed, "after_its_end")
    assert (run.state, run.error) == (RunState.FAILED, "ValueError: fails once")
    eventually(lambda: len(bodies(bed, "after_its_end")) == 2, what="the second execution")
    assert ended(bed, "after_its_end") == run


def test_a_group_or_chord_that_replaces_a_task_finishes_its_run(bed: Bed) -> None:
    if "RESULTS" not in bed.environment:
        return  # Celery needs results for groups and chords
    run = ended(bed, "many")
    assert run.state is RunState.SUCCEEDED
    assert sorted(output(bed, run).strip("[]").split(", ")) == ['"leaf many-1"', '"leaf many-2"']
    run = ended(bed, "crowd")
    assert (run.state, output(bed, run)) == (RunState.SUCCEEDED, "leaf crowd")
    run = ended(bed, "bad_crowd")
    assert run.state is RunState.FAILED
    assert "ValueError: bad_crowd does not work" in (run.error or "")
