"""Tests of policies: overlap, retries, loss, expiry, pauses, backfill; each skip has a reason."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hermes_celery.core.job import Job, JobRequest, JobSpec, JobState
from hermes_celery.core.policy import CatchUp, OnLost, Overlap, Policy
from hermes_celery.core.run import Outcome, Run, RunState, Trigger, message_id_of
from hermes_celery.errors import JobError, RecordBroken
from hermes_celery.scheduling.run_rescue import Rescuer, RescueReport
from hermes_celery.scheduling.tick import Ticker, TickReport
from tests.support import NOON, PlainMessages, Store, a_spec, replaced

TOKEN = 1
FAILED = Outcome(state=RunState.FAILED, error="boom", exit_code=1)
SUCCEEDED = Outcome(state=RunState.SUCCEEDED)


@pytest.fixture(autouse=True)
def _a_leader(store: Store) -> None:
    store.database.call("SET", store.database.keys.term, TOKEN)


def hourly(store: Store, **policy: object) -> Job:
    """Add a job that runs each hour."""
    chosen = Policy(**policy)  # type: ignore[arg-type]
    return store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="n", policy=chosen))


def an_hour_later(store: Store) -> TickReport:
    store.clock.advance(3600)
    return ticked(store)


def ticked(store: Store) -> TickReport:
    return Ticker(store.due, store.messages).tick(token=TOKEN, now_ms=store.clock.ms)


def rescued(store: Store) -> RescueReport:
    return Rescuer(store.jobs, store.runs, store.messages).rescue(
        token=TOKEN, now_ms=store.clock.ms
    )


def newest(store: Store, state: RunState | None = None) -> Run:
    return store.cron.latest_runs(state=state)[0]


def finish(store: Store, run_id: str, outcome: Outcome = SUCCEEDED, *, token: str = "t") -> str:
    return store.runs.finish(store.claim(run_id, token), outcome, now_ms=store.clock.ms)


def test_a_skip_says_whether_the_earlier_run_waits_or_runs(store: Store) -> None:
    hourly(store)
    an_hour_later(store)
    an_hour_later(store)
    assert newest(store).reason == "overlap: an earlier run still waits for a worker"
    store.claim(store.queue()[0])
    an_hour_later(store)
    assert newest(store).reason == "overlap: an earlier run still runs"


def test_allow_runs_side_by_side_up_to_max_active(store: Store) -> None:
    hourly(store, overlap=Overlap.ALLOW, max_active=2)
    assert [an_hour_later(store).dispatched for _ in range(3)] == [1, 1, 0]
    assert len(store.queue()) == 2
    finish(store, store.queue()[0])
    assert an_hour_later(store).dispatched == 1


def test_queue_one_holds_one_run_back_and_pushes_it_when_the_earlier_one_ends(store: Store) -> None:
    hourly(store, overlap=Overlap.QUEUE_ONE)
    reports = [an_hour_later(store) for _ in range(3)]
    assert [(r.dispatched, r.held, r.overlapping) for r in reports] == [
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
    ]
    (first,) = store.queue()
    held = store.cron.latest_runs(state=RunState.QUEUED)[0]
    assert held.id != first
    finish(store, first, FAILED)
    assert store.queue() == [first, held.id]
    finish(store, held.id)
    assert an_hour_later(store).dispatched == 1


@pytest.mark.parametrize("end", ["cancelled", "lost"])
def test_a_held_run_is_pushed_when_the_earlier_one_is_cancelled_or_lost(
    store: Store, end: str
) -> None:
    hourly(store, overlap=Overlap.QUEUE_ONE)
    an_hour_later(store)
    an_hour_later(store)
    (first,) = store.queue()
    if end == "cancelled":
        store.cron.cancel(first)
    else:
        store.claim(first)
        store.clock.advance(16)
        rescued(store)
    assert len(store.queue()) == 2


def test_a_held_run_can_be_cancelled(store: Store) -> None:
    hourly(store, overlap=Overlap.QUEUE_ONE)
    an_hour_later(store)
    an_hour_later(store)
    (first,) = store.queue()
    assert store.cron.cancel(newest(store).id) == "cancelled"
    finish(store, first)
    assert store.queue() == [first]


def test_replace_cancels_the_earlier_run_first(store: Store) -> None:
    hourly(store, overlap=Overlap.REPLACE)
    an_hour_later(store)
    (first,) = store.queue()
    claim = store.claim(first)
    assert an_hour_later(store).held == 1
    assert store.runs.heartbeat({first: claim.token}, now_ms=store.clock.ms) == {first: "cancel"}
    store.runs.finish(claim, Outcome(state=RunState.CANCELLED), now_ms=store.clock.ms)
    replaced_by = store.queue()[1]
    assert store.runs.get(first).reason == f"replaced by {replaced_by}"
    assert an_hour_later(store).dispatched == 1
    assert store.runs.get(replaced_by).state is RunState.CANCELLED


def test_catch_up_all_runs_missed_occurrences_one_after_the_other(store: Store) -> None:
    hourly(store, catch_up=CatchUp.ALL)
    store.clock.advance(4 * 3600)
    report = ticked(store)
    assert (report.dispatched, report.held) == (1, 3)
    for number in range(4):
        assert len(store.queue()) == number + 1
        finish(store, store.queue()[number])
    ran = store.cron.latest_runs(state=RunState.SUCCEEDED)
    assert [run.due_at for run in ran[::-1]] == [NOON + timedelta(hours=n) for n in range(1, 5)]


def test_a_failed_run_is_tried_again_with_back_off_and_then_fails(store: Store) -> None:
    hourly(store, retries=2)
    an_hour_later(store)
    (run_id,) = store.queue()
    for attempt in (1, 2):
        claim = store.claim(run_id, token=f"t{attempt}")
        assert claim.attempt == attempt
        retry_at_ms = store.clock.ms + 30_000
        answers = [
            store.runs.finish(claim, FAILED, now_ms=store.clock.ms, retry_at_ms=retry_at_ms)
            for _ in range(2)
        ]
        assert answers == ["retry", "retry"]
        run = store.runs.get(run_id)
        assert (run.state, run.attempt, run.error) == (RunState.QUEUED, attempt + 1, "boom")
        store.clock.advance(29)
        assert rescued(store).redelivered == 0
        store.clock.advance(2)
        assert rescued(store).redelivered == 1
    assert finish(store, run_id, FAILED, token="t3") == "ok"
    assert store.runs.get(run_id).state is RunState.FAILED
    assert store.queue() == [run_id] * 3


class _Numbered(PlainMessages):
    """Messages that consist of their own Celery id."""

    def message(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> bytes:
        return message_id_of(run_id, push=push).encode()


def test_every_message_of_a_run_after_the_first_has_an_id_of_its_own(store: Store) -> None:
    """Celery's workers drop a message whose id was revoked or expired before."""
    store.messages = _Numbered(store.messages.queue(a_spec()))
    hourly(store, retries=1)
    an_hour_later(store)
    (run_id,) = store.queue()
    for _ in range(2):
        store.clock.advance(300)
        assert rescued(store).redelivered == 1
    claim = store.claim(run_id)
    store.runs.finish(claim, FAILED, now_ms=store.clock.ms, retry_at_ms=store.clock.ms + 1)
    store.clock.advance(1)
    assert rescued(store).redelivered == 1
    assert store.queue() == [run_id, f"{run_id}.1", f"{run_id}.2", f"{run_id}.3"]


def test_the_first_message_that_the_leader_pushes_for_a_run_has_the_runs_id(
    store: Store,
) -> None:
    store.messages = _Numbered(store.messages.queue(a_spec()))
    job = hourly(store)
    store.clock.advance(2.5 * 3600)
    end = NOON + timedelta(hours=2, minutes=1)
    made = store.cron.backfill(job.id, start=NOON, end=end, one_by_one=False, per_minute=60_000)
    store.clock.advance(1)
    assert rescued(store).redelivered == len(made) > 0
    assert store.queue() == made


def test_a_run_that_waits_for_its_next_attempt_still_counts_as_active(store: Store) -> None:
    hourly(store, retries=2)
    an_hour_later(store)
    claim = store.claim(store.queue()[0])
    later = store.clock.ms + 7_200_000
    store.runs.finish(claim, FAILED, now_ms=store.clock.ms, retry_at_ms=later)
    an_hour_later(store)
    assert newest(store).reason == "overlap: an earlier run waits for its next attempt"


def test_a_cancelled_run_is_not_tried_again(store: Store) -> None:
    hourly(store, retries=2)
    an_hour_later(store)
    (run_id,) = store.queue()
    claim = store.claim(run_id)
    store.cron.cancel(run_id, reason="enough")
    failed = Outcome(state=RunState.CANCELLED)
    answer = store.runs.finish(claim, failed, now_ms=store.clock.ms, retry_at_ms=store.clock.ms + 1)
    assert (answer, store.runs.get(run_id).state) == ("ok", RunState.CANCELLED)


def test_a_lost_run_starts_again_with_on_lost_retry(store: Store) -> None:
    hourly(store, on_lost=OnLost.RETRY)
    an_hour_later(store)
    (run_id,) = store.queue()
    old = store.claim(run_id)
    store.clock.advance(16)
    assert rescued(store).lost == 1
    run = store.runs.get(run_id)
    assert (run.state, run.attempt) == (RunState.QUEUED, 2)
    assert store.runs.finish(old, SUCCEEDED, now_ms=store.clock.ms) == "late"
    beat = {run_id: old.token}
    assert store.runs.heartbeat(beat, now_ms=store.clock.ms) == {run_id: "lost"}
    store.clock.advance(31)
    assert rescued(store).redelivered == 1
    assert finish(store, run_id, token="t2") == "ok"
    assert store.runs.get(run_id).state is RunState.SUCCEEDED


def test_a_run_that_kills_its_worker_is_lost_after_five_attempts(store: Store) -> None:
    hourly(store, on_lost=OnLost.RETRY)
    an_hour_later(store)
    (run_id,) = store.queue()
    attempts = 0
    while store.runs.get(run_id).state is not RunState.LOST:
        attempts = store.claim(run_id, token=f"t{attempts}").attempt
        store.clock.advance(16)
        rescued(store)
    assert attempts == 5


def test_a_run_that_no_worker_took_in_time_is_skipped_as_expired(store: Store) -> None:
    hourly(store, expires_seconds=300)
    an_hour_later(store)
    (run_id,) = store.queue()
    store.clock.advance(300.001)
    answer = store.runs.claim(run_id, token="t", now_ms=store.clock.ms, worker="w")
    run = store.runs.get(run_id)
    assert (answer, run.state) == ("expired", RunState.SKIPPED)
    assert run.reason == "expired: no worker took it in time"
    assert store.database.call("EXISTS", store.database.keys.active(run.job_id)) == 0


def test_rescue_skips_expired_runs_when_there_is_no_worker(store: Store) -> None:
    hourly(store, expires_seconds=30)
    an_hour_later(store)
    store.clock.advance(61)
    assert rescued(store).redelivered == 0
    assert newest(store).state is RunState.SKIPPED


def test_failures_in_a_row_pause_a_job_and_a_success_resets_the_count(store: Store) -> None:
    job = hourly(store, pause_after=3)
    for outcome in (FAILED, FAILED, SUCCEEDED, FAILED, FAILED):
        an_hour_later(store)
        finish(store, store.queue()[-1], outcome)
    assert store.cron.show("n").state is JobState.SCHEDULED
    an_hour_later(store)
    finish(store, store.queue()[-1], FAILED)
    paused = store.cron.show("n")
    assert (paused.state, paused.paused_reason) == (JobState.PAUSED, "3 failures in a row")
    assert paused.paused_at == store.cron.now
    assert an_hour_later(store).dispatched == 0
    store.cron.resume(job.id)
    an_hour_later(store)
    finish(store, store.queue()[-1], FAILED)
    assert store.cron.show("n").state is JobState.SCHEDULED


def test_a_global_pause_stops_every_job_and_its_end_continues_from_now(store: Store) -> None:
    hourly(store)
    store.cron.pause_all(note="upgrade")
    for _ in range(3):
        report = an_hour_later(store)
        assert (report.paused, report.dispatched) == (True, 0)
    assert store.due.switch().note == "upgrade"
    store.clock.advance(60)
    store.cron.resume_all()
    assert ticked(store).skipped == 1
    assert (newest(store).reason or "").startswith("paused: 3 occurrences")
    assert an_hour_later(store).dispatched == 1


def test_resume_all_without_a_global_pause_skips_no_due_job(store: Store) -> None:
    hourly(store)
    store.clock.advance(3600)
    assert not store.cron.resume_all()
    assert ticked(store).dispatched == 1


def test_a_second_global_pause_keeps_the_first_note_and_instant(store: Store) -> None:
    hourly(store)
    assert store.cron.pause_all(note="upgrade")
    first = store.due.switch()
    store.clock.advance(3600)
    assert not store.cron.pause_all()
    assert store.due.switch() == first
    assert not store.cron.pause_all(note="a longer upgrade")
    assert store.due.switch() == replaced(first, note="a longer upgrade")
    assert store.cron.resume_all()
    assert not store.cron.resume_all()


def test_an_unreadable_switch_is_repaired_by_pause_all_and_resume_all(store: Store) -> None:
    hourly(store)
    store.database.call("HSET", store.database.keys.switch, "paused_ms", "soon")
    assert not store.cron.resume_all()
    assert store.due.switch().fault is None
    store.database.call("HSET", store.database.keys.switch, "paused_ms", "soon")
    assert store.cron.pause_all()
    assert store.due.switch().paused_ms == store.clock.ms
    store.database.call("DEL", store.database.keys.switch)
    store.database.call("SET", store.database.keys.switch, "x")
    with pytest.raises(RecordBroken):
        store.cron.pause_all()


def test_a_backfill_runs_a_range_one_by_one_and_only_once(store: Store) -> None:
    hourly(store)
    store.clock.advance(6 * 3600 + 60)
    end = NOON + timedelta(hours=3)
    made = store.cron.backfill("n", start=NOON, end=end)
    assert len(made) == 3
    assert store.queue() == made[:1]
    assert store.cron.backfill("n", start=NOON, end=end) == []
    finish(store, made[0])
    assert store.queue() == made[:2]
    assert {store.runs.get(run_id).trigger for run_id in made} == {Trigger.BACKFILL}
    assert store.cron.show("n").completed == 0


def test_a_backfill_at_a_rate_spreads_its_runs(store: Store) -> None:
    hourly(store)
    store.clock.advance(6 * 3600 + 60)
    made = store.cron.backfill(
        "n", start=NOON, end=NOON + timedelta(hours=5), one_by_one=False, per_minute=30
    )
    pushed = []
    for _ in range(10):
        pushed.append(rescued(store).redelivered)
        store.clock.advance(1)
    assert sum(pushed) == 5
    assert pushed[:9:2] == [1, 1, 1, 1, 1]
    assert store.queue() == made


def test_a_backfill_runs_skipped_occurrences_and_not_those_that_ran(store: Store) -> None:
    hourly(store)
    an_hour_later(store)
    an_hour_later(store)
    store.clock.advance(60)
    made = store.cron.backfill("n", start=NOON, end=store.cron.now)
    assert [store.runs.get(run_id).due_at for run_id in made] == [NOON + timedelta(hours=2)]


def test_an_empty_backfill_says_if_its_range_has_no_occurrence(
    store: Store,
) -> None:
    hourly(store)
    store.clock.advance(3600 + 60)
    before = NOON - timedelta(days=2)
    end = before + timedelta(days=1)
    assert store.cron.backfill("n", start=before, end=end) == []
    reason = store.cron.never_due("n", start=before, end=end)
    assert reason == (
        "'n' has no occurrence from 2026-06-20T12:00:00+00:00 to 2026-06-21T12:00:00+00:00; the "
        "job was created at 2026-06-22T12:00:00+00:00; the next is 2026-06-22T13:00:00+00:00"
    )
    assert store.cron.never_due("n", start=NOON, end=store.cron.now) == ""


def test_a_backfill_that_is_too_large_or_in_the_future_is_refused(store: Store) -> None:
    store.cron.add(JobRequest(schedule="* * * * *", prompt="x", name="often"))
    store.clock.advance(86_400)
    with pytest.raises(JobError, match="more than 1,000 occurrences"):
        store.cron.backfill("often", start=NOON, end=store.cron.now)
    with pytest.raises(JobError, match="is in the future"):
        store.cron.backfill("often", start=NOON, end=store.cron.now + timedelta(seconds=1))
    later = store.cron.now + timedelta(days=1)
    with pytest.raises(JobError, match="is in the future"):
        store.cron.backfill("often", start=later, end=store.cron.now)
    with pytest.raises(JobError, match="give the earlier instant first"):
        store.cron.backfill("often", start=store.cron.now, end=NOON)


@pytest.mark.parametrize(
    ("stored", "is_paused"),
    [
        ("1782129600000", True),
        ("-5", True),
        ("0000000000000005", True),
        ("253339228800000", True),
        ("00000000000000005", True),
        ("1_000", False),
        ("+5", False),
        ("253339228800001", False),
        ("-62104060800001", False),
        ("12345678901234567890", False),
        ("", False),
        ("soon", False),
    ],
)
def test_beats_and_scripts_agree_on_which_stored_values_pause_everything(
    store: Store, stored: str, is_paused: bool
) -> None:
    store.database.call("HSET", store.database.keys.switch, "paused_ms", stored)
    assert (store.due.switch().paused_ms is not None) == is_paused
    assert store.due.pause_all(note="", now_ms=store.clock.ms) == (not is_paused)
    assert store.due.switch().paused_ms is not None
