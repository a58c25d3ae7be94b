"""Tests that a project's own publishing code runs exactly once for each occurrence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_celery.core.job import JobState
from hermes_celery.core.run import Run, RunState
from hermes_celery.store import Jobs
from tests.projects.bed import Bed
from tests.support import eventually

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Yield a bed whose beat and worker have run for some seconds."""
    with Bed("publishing", tmp_path_factory.mktemp("publishing")) as bed:
        bed.up("-Q", "celery,second", "-c", "2")
        for name in ("expiring", "annotated", "correlated", "routed", "once-ran"):
            bed.await_notes(name, 5)
        bed.await_notes("hiccup", 2)
        bed.await_notes("dropping", 2)
        yield bed


def finished(bed: Bed, job: str) -> list[Run]:
    """Return the finished runs of a job, the oldest first."""
    return [run for run in bed.runs(job)[::-1] if run.state.is_final]


def is_scheduled(bed: Bed, job: str) -> bool:
    found = Jobs(bed.database()).find(job)
    return found.state is JobState.SCHEDULED and found.next_run_at is not None


@pytest.mark.parametrize("job", ["expiring", "annotated"])
def test_expires_counts_from_each_message(bed: Bed, job: str) -> None:
    runs = finished(bed, job)
    assert len(runs) >= 4
    assert {run.state for run in runs} == {RunState.SUCCEEDED}


def test_each_message_has_a_correlation_id_and_a_time_of_its_own(bed: Bed) -> None:
    notes = bed.notes("correlated")
    assert len({correlation for _, correlation, *_ in notes}) == len(notes)
    assert max(float(age) for _, _, age, *_ in notes) < 1.5


def test_a_scheduled_task_sees_that_a_beat_sent_it(bed: Bed) -> None:
    assert {note[3] for note in bed.notes("correlated")} == {"True"}


def test_publish_signals_are_sent_once_per_occurrence_with_its_run_id(bed: Bed) -> None:
    runs = {run.id for run in finished(bed, "correlated")}
    for word in ("before", "after"):
        heard = [note[2] for note in bed.notes(word) if note[1] == "publishing.correlated"]
        assert runs <= set(heard)
        assert len(heard) == len(set(heard))


def test_no_publish_signal_is_sent_for_the_packages_own_messages_or_a_placeholder(bed: Bed) -> None:
    bed.hermes("add", "every 1h", "--script", "x.sh")
    heard = bed.notes("before")
    assert not [note for note in heard if note[1].startswith("hermes_celery.")]
    assert not [note for note in heard if "mark" in note[2]]


def test_a_held_lock_fails_its_occurrence_and_not_the_schedule(bed: Bed) -> None:
    held = bed.database().client
    eventually(
        lambda: held.set("once:publishing.once", "somebody", nx=True, ex=60), what="the lock"
    )
    run = bed.await_run("once", lambda run: run.state is RunState.FAILED)
    assert run.error is not None
    assert "AlreadyQueued: publishing.once" in run.error
    held.delete("once:publishing.once")
    bed.await_run("once", lambda later: later.state is RunState.SUCCEEDED and later.id > run.id)
    # Each occurrence tried to take the lock once.
    asked = [note[1] for note in bed.notes("once")]
    assert len(asked) == len(set(asked))


def test_a_broker_error_during_publishing_fails_one_occurrence(bed: Bed) -> None:
    first, *others = finished(bed, "hiccup")
    assert (first.state, "ConnectionError" in (first.error or "")) == (RunState.FAILED, True)
    assert others
    assert {run.state for run in others} == {RunState.SUCCEEDED}


def test_a_task_that_publishes_nothing_is_skipped_with_the_reason(bed: Bed) -> None:
    runs = finished(bed, "singleton")
    assert {run.state for run in runs} == {RunState.SKIPPED}
    assert "apply_async of publishing.singleton sent no message" in (runs[0].reason or "")
    assert is_scheduled(bed, "singleton")
    assert bed.notes("singleton") == []


def test_a_task_that_drops_its_options_is_sent_and_executed_once_per_occurrence(bed: Bed) -> None:
    runs = finished(bed, "dropping")
    assert {run.state for run in runs} == {RunState.SENT}
    published = [note for note in bed.notes("after") if note[1] == "publishing.dropping"]
    eventually(
        lambda: len(bed.notes("dropping")) >= len(published), what="one execution per message"
    )
    assert len(published) <= len(bed.runs("dropping"))


@pytest.mark.parametrize(
    ("job", "error"), [("unroutable", "LookupError"), ("mistaken", "TypeError")]
)
def test_a_task_that_cannot_be_published_fails_each_time_and_stays_scheduled(
    bed: Bed, job: str, error: str
) -> None:
    runs = finished(bed, job)
    assert len(runs) >= 2
    assert {run.state for run in runs} == {RunState.FAILED}
    assert error in (runs[0].error or "")
    assert is_scheduled(bed, job)
    # It has an incident like any other failure.
    eventually(lambda: f"'{job}' failed" in bed.hermes("incidents").stdout, what="an incident")


def test_a_router_is_called_for_each_message(bed: Bed) -> None:
    places = [note[1] for note in bed.notes("routed")]
    assert set(places) == {"celery", "second"}
    runs = [run for run in finished(bed, "routed") if run.state is not RunState.SKIPPED]
    assert {run.state for run in runs} == {RunState.SUCCEEDED}


def test_a_monitor_of_celerys_beat_sees_each_occurrence_once(tmp_path: Path) -> None:
    with Bed("checked_in", tmp_path) as bed:
        bed.up()
        bed.await_notes("entry", 6)
        by_hand = bed.hermes("run", "tick").stdout
        (alone,) = eventually(
            lambda: [note for note in bed.notes("ran") if note[1] == "None"],
            what="the run started by hand",
        )
        assert alone[3] in by_hand
        ran = [note for note in bed.notes("ran") if note != alone]
        assert {tuple(note[1:5]) for note in bed.notes("entry")} == {
            ("tick", "checked_in", "schedule", "2.0"),
            ("declared", "checked_in", "schedule", "3.0"),
            ("mistaken", "checked_in", "schedule", "3.0"),
        }
        # Celery's `apply_entry` swallows exceptions; here an exception fails the run.
        failed = bed.await_run("mistaken", lambda run: run.state is RunState.FAILED)
        assert "TypeError" in (failed.error or "")
        ids = [note[3] for note in ran]
        assert {note[2] for note in ran} == {"True"}
        # Headers added by the monitor are in the message, but only for scheduled runs.
        assert {note[1] for note in ran} == {"tick", "declared"}
        runs = [run for job in ("tick", "declared", "mistaken") for run in bed.runs(job)]
        assert set(ids) <= {run.id for run in runs}
        assert len(bed.notes("entry")) <= len(runs) - 1


@pytest.mark.parametrize("role", ["worker", "beat"])
def test_a_project_that_runs_tasks_eagerly_gets_an_error_of_one_sentence(
    tmp_path: Path, role: str
) -> None:
    with Bed("eager", tmp_path) as bed:
        process = bed.beat() if role == "beat" else bed.worker()
        assert process.wait(timeout=30) == 1
        lines = bed.log(process).splitlines()
        (said,) = [line for line in lines if line.startswith("Error: ")]
        assert "set task_always_eager = False" in said
        assert "Traceback" not in bed.log(process)
