"""Tests of the checker: it accepts good histories and finds each kind of fault in bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_celery.core.run import Run, RunState, Trigger, occurrence_at
from hermes_celery.instant import iso
from hermes_celery.schedule import parse
from tests.proof.history import History, Span, Start, StartLog, note_start, starts_in
from tests.proof.history_checker import Verdict, check
from tests.proof.start_matching import Window, match
from tests.support import NOON, replaced

JOB = "aaaaaaaaaaaa"
HOUR = timedelta(hours=1)


def span(job_id: str = JOB, hours: int = 3, **fields: Any) -> Span:
    """Return a span of an hourly job, from noon on."""
    schedule = parse("every 1h", timezone="UTC", now=NOON)
    return Span(
        **{
            "job_id": job_id,
            "schedule": schedule,
            "start": NOON,
            "end": NOON + hours * HOUR,
            **fields,
        }
    )


def record(due_at: datetime, job_id: str = JOB, **fields: Any) -> Run:
    """Return the record of a run that went well."""
    values: dict[str, Any] = {
        "id": occurrence_at(job_id, due_at).run_id,
        "job_id": job_id,
        "job_name": "n",
        "due_at": due_at,
        "queued_at": due_at,
        "started_at": due_at + timedelta(milliseconds=5),
        "finished_at": due_at + timedelta(milliseconds=9),
        "state": RunState.SUCCEEDED,
    }
    return Run(**{**values, **fields})


def skipped(due_at: datetime, reason: str) -> Run:
    """Return the record of a skipped run."""
    return record(
        due_at,
        state=RunState.SKIPPED,
        reason=reason,
        attempt=0,
        started_at=None,
        finished_at=due_at,
    )


def starts_of(records: Sequence[Run]) -> tuple[Start, ...]:
    """Return one start for each record that says it began."""
    return tuple(
        Start(run_id=run.id, attempt=run.attempt) for run in records if run.started_at is not None
    )


def good(hours: int = 3) -> History:
    """Return a history in which every occurrence ran once, in time."""
    records = tuple(record(NOON + n * HOUR) for n in range(1, hours + 1))
    return History(spans=(span(hours=hours),), records=records, starts=starts_of(records))


def judged(history: History) -> Verdict:
    return check(history, late_after=timedelta(seconds=1))


def test_a_history_in_which_all_went_well_is_valid() -> None:
    verdict = judged(good())
    assert verdict.valid, verdict.faults()
    assert (verdict.targets, verdict.started, verdict.told) == (3, 3, {})
    assert verdict.max_lateness == timedelta(milliseconds=5)


def test_an_occurrence_without_a_record_is_lost() -> None:
    history = good()
    verdict = judged(replaced(history, records=history.records[1:], starts=history.starts[1:]))
    assert [(f.run_id, f.what) for f in verdict.lost] == [(history.records[0].id, "has no record")]
    assert not verdict.valid
    assert "lost 1: aaaaaaaaaaaa-20260622T130000Z has no record" in verdict.faults()


def test_a_run_that_succeeded_without_a_start_is_lost() -> None:
    history = good()
    verdict = judged(replaced(history, starts=history.starts[1:]))
    assert [f.what for f in verdict.lost] == ["succeeded, but never started"]


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.RUNNING])
def test_a_run_that_never_ends_is_lost(state: RunState) -> None:
    history = good()
    stuck = replaced(history.records[2], state=state, finished_at=None)
    verdict = judged(replaced(history, records=(*history.records[:2], stuck)))
    assert [f.what for f in verdict.lost] == [f"is {state.value} for ever"]


def test_a_trigger_that_was_answered_must_have_a_record() -> None:
    manual = record(
        NOON + HOUR / 2, id=f"{JOB}-20260622T123000Z-abcd", trigger=Trigger.MANUAL, attempt=1
    )
    history = good()
    known = replaced(
        history,
        records=(*history.records, manual),
        starts=(*history.starts, *starts_of([manual])),
        asked=frozenset([manual.id]),
    )
    assert judged(known).valid
    forgotten = judged(replaced(history, asked=frozenset([manual.id])))
    assert [f.what for f in forgotten.lost] == ["was triggered and has no record"]


def test_two_starts_of_one_attempt_are_doubled() -> None:
    history = good()
    verdict = judged(replaced(history, starts=(*history.starts, history.starts[1])))
    assert [f.what for f in verdict.doubled] == ["started 2 times (attempt 1)"]


def test_a_second_attempt_is_doubled_unless_the_job_asks_for_it() -> None:
    history = good()
    retried = replaced(history.records[0], attempt=2)
    starts = (*history.starts, Start(run_id=retried.id, attempt=2))
    again = replaced(history, records=(retried, *history.records[1:]), starts=starts)
    assert [f.what for f in judged(again).doubled] == ["started attempt 2; its job allows one"]
    wanted = replaced(again, spans=(span(may_repeat=True),))
    assert judged(wanted).valid


def test_an_attempt_that_is_not_on_record_is_doubled() -> None:
    history = replaced(good(), spans=(span(may_repeat=True),))
    starts = (*history.starts, Start(run_id=history.records[0].id, attempt=2))
    verdict = judged(replaced(history, starts=starts))
    assert [f.what for f in verdict.doubled] == ["started attempt 2 of 1"]


def test_two_records_of_one_occurrence_are_doubled() -> None:
    history = good()
    twin = replaced(history.records[0], id=history.records[0].id + "-abcd")
    records = (*history.records, twin)
    verdict = judged(replaced(history, records=records, starts=starts_of(records)))
    assert [f.what for f in verdict.doubled] == ["has 2 records"]
    assert [f.what for f in verdict.unexpected] == ["does not have the id of its occurrence"]


def test_a_start_later_than_the_bound_is_late() -> None:
    history = good()
    late = replaced(history.records[0], started_at=NOON + HOUR + timedelta(seconds=1.5))
    verdict = judged(replaced(history, records=(late, *history.records[1:])))
    assert [f.what for f in verdict.late] == ["started 1.500 s late"]
    assert verdict.max_lateness == timedelta(seconds=1.5)


def test_a_start_without_a_record_is_unexpected() -> None:
    history = good()
    ghost = Start(run_id=f"{JOB}-20260622T133000Z", attempt=1)
    verdict = judged(replaced(history, starts=(*history.starts, ghost)))
    assert [f.what for f in verdict.unexpected] == ["started, but has no record"]


def test_a_start_of_a_run_that_was_skipped_is_unexpected() -> None:
    history = good()
    records = (skipped(NOON + HOUR, "overlap"), *history.records[1:])
    verdict = judged(replaced(history, records=records))
    assert [f.what for f in verdict.unexpected] == ["started, but its record says skipped"]


def test_a_record_of_an_instant_in_no_schedule_is_unexpected() -> None:
    history = good()
    odd = record(NOON + HOUR * 1.5)
    records = (*history.records, odd)
    verdict = judged(replaced(history, records=records, starts=starts_of(records)))
    assert [f.what for f in verdict.unexpected] == ["2026-06-22T13:30:00+00:00 is in no schedule"]


def test_a_skipped_occurrence_is_accounted_for_with_its_reason() -> None:
    history = good()
    records = (skipped(NOON + HOUR, "overlap: an earlier run still runs"), *history.records[1:])
    verdict = judged(replaced(history, records=records, starts=starts_of(records)))
    assert verdict.valid, verdict.faults()
    assert verdict.told == {"overlap": 1}


def test_one_record_may_cover_a_span_of_missed_occurrences() -> None:
    missed = f"missed: 2 occurrences, {iso(NOON + HOUR)} to {iso(NOON + 2 * HOUR)}"
    records = (skipped(NOON + 2 * HOUR, missed), record(NOON + 3 * HOUR))
    history = History(spans=(span(),), records=records, starts=starts_of(records))
    assert judged(history).valid
    more = replaced(history, spans=(span(hours=4),))
    assert [f.what for f in judged(more).lost] == ["has no record"]


def test_a_span_of_missed_occurrences_must_name_their_number() -> None:
    missed = f"missed: 3 occurrences, {iso(NOON + HOUR)} to {iso(NOON + 2 * HOUR)}"
    records = (skipped(NOON + 2 * HOUR, missed), record(NOON + 3 * HOUR))
    verdict = judged(History(spans=(span(),), records=records, starts=starts_of(records)))
    assert [f.what for f in verdict.unexpected] == ["skips 3 occurrences; there were 2"]


def test_an_occurrence_that_an_edit_overtook_may_have_run_or_not() -> None:
    history = good()
    edited = replaced(history, spans=(span(settled_until=NOON + 2 * HOUR),))
    assert judged(edited).valid
    assert judged(replaced(edited, records=edited.records[:2], starts=edited.starts[:2])).valid
    assert judged(replaced(edited, records=edited.records[:1], starts=edited.starts[:1])).lost


def test_a_run_recorded_as_lost_is_counted_and_is_not_a_fault() -> None:
    history = good()
    gone = replaced(history.records[0], state=RunState.LOST)
    verdict = judged(replaced(history, records=(gone, *history.records[1:])))
    assert verdict.valid
    assert verdict.told == {"lost": 1}


_hours = st.integers(min_value=1, max_value=24)


@given(hours=_hours, which=st.data())
def test_dropping_any_record_of_a_good_history_is_found(hours: int, which: st.DataObject) -> None:
    history = good(hours)
    gone = which.draw(st.sampled_from(history.records))
    kept = tuple(run for run in history.records if run is not gone)
    verdict = judged(replaced(history, records=kept, starts=starts_of(kept)))
    assert [f.run_id for f in verdict.lost] == [gone.id]
    assert (verdict.doubled, verdict.late, verdict.unexpected) == ((), (), ())


@given(hours=_hours, times=st.integers(min_value=2, max_value=5), which=st.data())
def test_doubling_any_start_of_a_good_history_is_found(
    hours: int, times: int, which: st.DataObject
) -> None:
    history = good(hours)
    twice = which.draw(st.sampled_from(history.starts))
    starts = (*history.starts, *[twice] * (times - 1))
    verdict = judged(replaced(history, starts=starts))
    assert [f.run_id for f in verdict.doubled] == [twice.run_id]
    assert (verdict.lost, verdict.late, verdict.unexpected) == ((), (), ())


@given(hours=_hours, order=st.randoms(use_true_random=False))
def test_the_verdict_does_not_depend_on_the_order(hours: int, order: Any) -> None:
    history = good(hours)
    records, starts = list(history.records), list(history.starts)
    order.shuffle(records)
    order.shuffle(starts)
    shuffled = replaced(history, records=tuple(records), starts=tuple(starts))
    assert msgspec.json.encode(judged(shuffled)) == msgspec.json.encode(judged(history))


def test_starts_are_read_back_from_files_of_either_form(tmp_path: Path) -> None:
    run_id = record(NOON + HOUR).id
    note_start(tmp_path, run_id, 1)
    note_start(tmp_path, run_id, 1)
    StartLog(tmp_path).note(run_id, 2)
    assert sorted(start.attempt for start in starts_in(tmp_path)) == [1, 1, 2]
    assert {start.run_id for start in starts_in(tmp_path)} == {run_id}


def windows(*pairs: tuple[int, int]) -> list[Window]:
    return [Window(opens_ms=opens, closes_ms=closes) for opens, closes in pairs]


def test_without_run_ids_the_largest_assignment_is_found() -> None:
    # The early start fits both windows; only with the first one are both windows served.
    found = match(windows((0, 10), (5, 20)), [15, 6])
    assert (found.pairs, found.missing, found.extra) == ({0: 1, 1: 0}, (), ())


def test_without_run_ids_unassigned_windows_are_missing_and_unassigned_starts_extra() -> None:
    found = match(windows((0, 10), (20, 30), (40, 50)), [5, 6, 41])
    assert (found.missing, found.extra) == ((1,), (1,))


_window = st.tuples(st.integers(0, 20), st.integers(0, 8)).map(lambda p: (p[0], p[0] + p[1]))


@given(pairs=st.lists(_window, max_size=5), starts=st.lists(st.integers(0, 30), max_size=5))
def test_the_assignment_is_valid_and_as_large_as_possible(
    pairs: list[tuple[int, int]], starts: list[int]
) -> None:
    targets = windows(*pairs)
    found = match(targets, starts)
    for window, start in found.pairs.items():
        assert targets[window].opens_ms <= starts[start] <= targets[window].closes_ms
    assert len(set(found.pairs.values())) == len(found.pairs)
    assert len(found.pairs) == largest(targets, starts)


def largest(targets: list[Window], starts: list[int]) -> int:
    """Return the size of the largest assignment, by trying all of them."""
    padded: list[int | None] = [*starts, *[None] * len(targets)]
    return max(
        sum(
            start is not None and window.opens_ms <= start <= window.closes_ms
            for window, start in zip(targets, order, strict=False)
        )
        for order in permutations(padded, len(targets))
    )
