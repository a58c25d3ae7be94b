"""Tests of group places, budgets, live output and returned claims: each is one atomic step."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from hermes_celery.core.job import JobRequest, JobState
from hermes_celery.core.output import PrintedPiece
from hermes_celery.core.run import Outcome, RunState, Usage
from hermes_celery.errors import RunNotFound
from hermes_celery.masking.output import redactor
from hermes_celery.running.live_output import LiveOutput
from hermes_celery.store import Claim, HandedOn, RunLimits
from tests.support import Store, cases


@pytest.fixture
def places(store: Store) -> RunLimits:
    return RunLimits(store.database)


def claimed(store: Store, *, token: str = "t", **fields: Any) -> Claim:
    """Add a job, trigger a run and claim it."""
    job = store.cron.add(JobRequest(**{"schedule": "every 1h", "prompt": "x", **fields}))
    return store.claim(store.cron.run(job.id), token=token)


def in_group(store: Store, *, token: str, limit: int = 2) -> Claim:
    return claimed(store, token=token, group="g", group_limit=limit)


def test_a_group_takes_as_many_runs_as_its_limit(store: Store, places: RunLimits) -> None:
    first, second, third = (in_group(store, token=token) for token in "abc")
    assert [places.enter(c, now_ms=store.clock.ms) for c in (first, second)] == ["ok", "ok"]
    assert places.enter(first, now_ms=store.clock.ms) == "ok"
    assert places.enter(third, now_ms=store.clock.ms) == "full"
    run = store.runs.get(third.run_id)
    assert (run.state, run.started_at, run.worker) == (RunState.QUEUED, None, None)
    places.leave(first)
    again = store.claim(third.run_id, token="d")
    assert places.enter(again, now_ms=store.clock.ms) == "ok"


def test_a_run_that_found_no_place_is_pushed_again_soon(store: Store, places: RunLimits) -> None:
    first, second = (in_group(store, token=token, limit=1) for token in "ab")
    places.enter(first, now_ms=store.clock.ms)
    places.enter(second, now_ms=store.clock.ms)
    assert store.runs.undelivered_since(store.clock.ms + 999, limit=9) == []
    (overdue,) = store.runs.undelivered_since(store.clock.ms + 1000, limit=9)
    assert overdue.run.id == second.run_id


def test_the_place_of_a_dead_run_is_free_when_its_heartbeat_expires(
    store: Store, places: RunLimits
) -> None:
    first, second = (in_group(store, token=token, limit=1) for token in "ab")
    places.enter(first, now_ms=store.clock.ms)
    store.clock.advance(14)
    beat = {first.run_id: first.token}
    store.runs.heartbeat(beat, now_ms=store.clock.ms, groups={first.run_id: first.group})
    store.clock.advance(14)
    assert places.enter(second, now_ms=store.clock.ms) == "full"
    again = store.claim(second.run_id, token="c")
    store.clock.advance(1.1)
    assert places.enter(again, now_ms=store.clock.ms) == "ok"


def test_a_lost_claim_takes_no_place_and_cannot_be_returned(
    store: Store, places: RunLimits
) -> None:
    claim = in_group(store, token="a")
    store.database.call("HSET", store.database.keys.run(claim.run_id), "claim", "other")
    assert places.enter(claim, now_ms=store.clock.ms) == "late"
    assert store.runs.put_back(claim, ready_at_ms=store.clock.ms) == "late"
    assert places.spend(claim, Usage(tokens=1), now_ms=store.clock.ms) == "late"
    assert store.runs.get(claim.run_id).state is RunState.RUNNING


def test_a_returned_run_can_be_claimed_again(store: Store) -> None:
    claim = claimed(store)
    assert store.runs.put_back(claim, ready_at_ms=store.clock.ms + 5_000) == "ok"
    assert store.runs.counts() == {"queued": 1, "running": 0}
    again = store.claim(claim.run_id, token="again")
    assert again.attempt == 1
    outcome = Outcome(state=RunState.SUCCEEDED)
    assert store.runs.finish(again, outcome, now_ms=store.clock.ms) == "ok"
    assert store.runs.finish(claim, outcome, now_ms=store.clock.ms) == "late"


def test_a_run_that_was_handed_on_keeps_the_time_when_it_began(store: Store) -> None:
    for handed_on in (HandedOn(message="a-celery-id"), HandedOn(hop=1)):
        claim = claimed(store)
        store.runs.put_back(claim, ready_at_ms=store.clock.ms + 5_000, handed_on=handed_on)
        store.runs.cancel(claim.run_id, reason="revoked", now_ms=store.clock.ms)
        assert store.runs.get(claim.run_id).started_at is not None
    claim = claimed(store)
    store.runs.put_back(claim, ready_at_ms=store.clock.ms + 5_000)
    assert store.runs.get(claim.run_id).started_at is None


def test_the_usage_of_runs_adds_up_within_one_day_only(store: Store, places: RunLimits) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", token_budget=100))
    for tokens, word, state in ((60, "ok", JobState.SCHEDULED), (60, "ok", JobState.SCHEDULED),
                                (60, "paused", JobState.PAUSED)):  # fmt: skip
        claim = store.claim(store.cron.run(job.id), token=f"t{store.clock.ms}")
        usage = Usage(tokens=tokens, cost_usd=0.25)
        assert places.spend(claim, usage, now_ms=store.clock.ms) == word
        assert places.spend(claim, usage, now_ms=store.clock.ms) == "again"
        store.runs.finish(claim, Outcome(state=RunState.SUCCEEDED), now_ms=store.clock.ms)
        assert store.cron.show(job.id).state is state
        run = store.runs.get(claim.run_id)
        assert (run.tokens, run.cost_usd) == (60, 0.25)
        # The runs are at noon, at noon the next day, and an hour later.
        store.clock.advance(timedelta(days=1).total_seconds() if store.clock.ms % 2 == 0 else 3600)
        store.clock.ms += 1
    paused = store.cron.show(job.id)
    assert "token budget spent: 120 of 100 on 2026-06-23 (UTC)" in (paused.paused_reason or "")
    assert store.due.next_due_ms() is None
    assert store.cron.resume(job.id).state is JobState.SCHEDULED


def test_a_cost_budget_counts_dollars(store: Store, places: RunLimits) -> None:
    claim = claimed(store, cost_budget=0.5)
    usage = Usage(tokens=10, cost_usd=0.75)
    assert places.spend(claim, usage, now_ms=store.clock.ms) == "paused"
    reason = store.cron.show(claim.spec.id).paused_reason or ""
    assert reason.startswith("cost budget spent: 0.7500 of 0.5 USD")


def test_live_output_grows_while_the_claim_holds(store: Store) -> None:
    claim = claimed(store)
    beat = {claim.run_id: claim.token}
    for line in (b"a\n", b"b\xff\n"):
        printed = {claim.run_id: PrintedPiece(stdout=line, stderr=line.upper())}
        assert store.runs.heartbeat(beat, now_ms=store.clock.ms, printed=printed) == {
            claim.run_id: "ok"
        }
    assert store.runs.output(claim.run_id) == b"a\nb\xff\n"
    assert store.runs.stderr(claim.run_id) == b"A\nB\xff\n"
    assert store.runs.printed_since(claim.run_id, 2, is_error=False) == (b"b\xff\n", 5)
    stranger = {claim.run_id: "other"}
    store.runs.heartbeat(
        stranger, now_ms=store.clock.ms, printed={claim.run_id: PrintedPiece(stdout=b"no\n")}
    )
    assert store.runs.output(claim.run_id) == b"a\nb\xff\n"
    store.runs.finish(claim, Outcome(state=RunState.SUCCEEDED), now_ms=store.clock.ms)
    assert store.runs.output(claim.run_id) == b""


def test_live_output_that_could_not_be_stored_is_offered_again() -> None:
    live = LiveOutput()
    live.mask_with(redactor(["secret-value"]))
    live.write(b"one secret-value\ntw")
    live.write(b"e\n", is_error=True)
    taken = live.take()
    assert taken == PrintedPiece(stdout=b"one ***\n", stderr=b"e\n")
    live.give_back(taken)
    live.write(b"o\n")
    assert live.take() == PrintedPiece(stdout=b"one ***\ntwo\n", stderr=b"e\n")
    assert live.take() == PrintedPiece()


def test_a_private_key_is_held_back_until_it_is_complete() -> None:
    live = LiveOutput()
    live.mask_with(redactor())
    live.write(b"a\n-----BEGIN PRIVATE KEY-----\nMII\n")
    assert live.take() == PrintedPiece()
    live.write(b"-----END PRIVATE KEY-----\nb\n")
    assert live.take().stdout == b"a\n***\nb\n"


def test_a_live_stream_is_cut_at_one_mebibyte() -> None:
    live = LiveOutput()
    for _ in range(40):
        live.write(b"x" * 65_535 + b"\n")
    assert len(live.take().stdout) == 2**20
    live.write(b"more\n")
    assert live.take() == PrintedPiece()


@pytest.mark.parametrize("case", cases("safety.output_path"), ids=lambda c: str(c["input"]))
def test_paths_from_hermes_output_cases_are_not_run_ids(store: Store, case: Any) -> None:
    # Differs from Hermes: output has a key and no path, so even its valid names are no run ids.
    with pytest.raises(RunNotFound):
        store.cron.cancel(case["input"]["job_id"])
