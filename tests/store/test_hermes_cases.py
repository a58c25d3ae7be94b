"""Recorded cases of Hermes' cron about ticks and claims, or the reason why ours differs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from hermes_celery.core.job import Job, JobRequest, JobState
from hermes_celery.core.planning import grace_ms
from hermes_celery.core.policy import CatchUp, Policy
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.instant import to_ms
from hermes_celery.scheduling.tick import Ticker, TickReport
from hermes_celery.store import History, Retention
from tests.support import NOON, Store, a_spec, cases, replaced

TOKEN = 1

#: Area -> row -> why ours differs. Everything else of these areas is tested below.
DIFFERENT = {
    "due.catchup@main": {
        2: "a next run that cannot be computed is a fault on record, not a reason to run at once",
        6: "a one-shot that was missed for more than 120 s still runs: it has no later occurrence",
    },
    "due.duplicate_guard@main": {
        2: "an occurrence has one record: whether a failed one runs again is its `retries`",
        3: "a later occurrence with a record does not hide an earlier one, which is what is asked; "
        "but the earlier one is then caught up under its own id",
    },
    "due.order@main": {
        1: "a scheduled job always has a next_run_at here; the due index holds no other",
        2: "as above",
    },
    "tick.parallel": {0: "runs in parallel are the workers' business", 1: "as above"},
}


@pytest.fixture(autouse=True)
def _a_leader(store: Store) -> None:
    store.database.call("SET", store.database.keys.term, TOKEN)


def ticked(store: Store) -> TickReport:
    return Ticker(store.due, store.messages).tick(token=TOKEN, now_ms=store.clock.ms)


def hourly(store: Store, name: str = "n", **policy: Any) -> Job:
    request = JobRequest(schedule="every 1h", prompt="x", name=name, policy=Policy(**policy))
    return store.cron.add(request)


def finish(store: Store, run_id: str, state: RunState = RunState.SUCCEEDED) -> None:
    store.runs.finish(store.claim(run_id), Outcome(state=state), now_ms=store.clock.ms)


def test_every_case_listed_as_different_exists_and_has_a_reason() -> None:
    for area, rows in DIFFERENT.items():
        assert max(rows) < len(cases(area))
        assert all(len(why) > 5 for why in rows.values())


# due.catchup@main ---------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [0, 1, 3, 4, 5])
def test_catching_up_after_hours_without_a_tick(store: Store, row: int) -> None:
    case = cases("due.catchup@main")[row]
    given, expected = case["input"], case["expected"]
    # `cron.catch_up_missed` and a job's `catch_up` in Hermes: false is our `skip`, else `latest`.
    wish = given.get("job.catch_up", given.get("cron.catch_up_missed"))
    policy: dict[str, Any] = {"catch_up": CatchUp.SKIP if wish is False else CatchUp.LATEST}
    if "job.misfire_grace_seconds" in given:
        policy["grace_seconds"] = given["job.misfire_grace_seconds"]
    jobs = given.get("jobs", {"only": {"late_s": given.get("late_s")}})
    due = expected["due"] if "jobs" in given else ["only"]
    for name, about in jobs.items():
        if name == "manual":
            continue  # a manual run is no occurrence here: it is dispatched at once, see below
        job = hourly(store, name, **policy)
        # Late for its last occurrence: a daily grid, shifted to `late_s` before noon.
        edited = replaced(
            job,
            spec=replaced(job.spec, schedule="every 1d", schedule_display="every 1440m"),
            next_run_at=NOON - timedelta(seconds=about["late_s"]),
        )
        anchor_ms = to_ms(NOON - timedelta(seconds=about["late_s"], days=1))
        spec = replaced(edited.spec, anchor_ms=anchor_ms)
        store.jobs.change(replaced(edited, spec=spec), was=job)
    ticked(store)
    ran = {run.job_name for run in store.cron.latest_runs(state=RunState.QUEUED)}
    if row == 0:
        assert ran == set(due) - {"manual"}
        store.cron.run("stale")
        assert "stale" in {r.job_name for r in store.cron.latest_runs(state=RunState.QUEUED)}
    elif row == 4 and policy["grace_seconds"] >= 14_400:
        assert ran == {"only"}
    else:
        assert ran == {"only"}
    for job in store.cron.all_jobs():
        assert job.next_run_at is not None
        assert job.next_run_at > NOON


def test_the_grace_of_a_one_shot_is_that_of_hermes() -> None:
    case = cases("due.catchup@main")[6]
    spec = a_spec("in 1h")
    found = grace_ms(spec.compiled(), spec, now_ms=to_ms(NOON))
    assert found == case["expected"]["policy"]["misfire_grace_seconds"] * 1000


# due.duplicate_guard@main -------------------------------------------------------------------------


@pytest.mark.parametrize("row", [0, 1])
def test_an_occurrence_that_has_run_is_not_run_again(store: Store, row: int) -> None:
    case = cases("due.duplicate_guard@main")[row]
    now = datetime.fromisoformat(case["input"]["now"])
    due_at = datetime.fromisoformat(case["input"]["next_run_at"])
    store.clock.ms = to_ms(due_at) - 1000
    job = store.cron.add(
        JobRequest(schedule=case["input"]["expr"], prompt="x", timezone="Asia/Singapore")
    )
    if case["input"]["ledger"] != "empty":
        store.clock.ms = to_ms(due_at) + 30_000
        ticked(store)
        finish(store, store.queue()[0])
        current = store.cron.show(job.id)
        store.jobs.change(replaced(current, next_run_at=due_at), was=current)
    before = len(store.cron.latest_runs())
    store.clock.ms = to_ms(now)
    assert bool(ticked(store).dispatched) == case["expected"]["fires"]
    after = store.cron.show(job.id).next_run_at
    assert after is not None
    assert after > now
    if "new_ledger_rows" in case["expected"]:
        assert len(store.cron.latest_runs()) - before == case["expected"]["new_ledger_rows"]


# due.order@main -----------------------------------------------------------------------------------


def test_the_job_that_has_waited_longest_is_dispatched_first(store: Store) -> None:
    case = cases("due.order@main")[0]
    now = datetime.fromisoformat(case["input"]["now"])
    store.clock.ms = to_ms(now) - 86_400_000
    for name, when in case["input"]["file_order"].items():
        hour, minute = when[:5].split(":")
        store.cron.add(JobRequest(schedule=f"{minute} {hour} * * *", prompt="x", name=name))
    store.clock.ms = to_ms(now)
    ticked(store)
    names = [store.runs.get(run_id).job_name for run_id in store.queue()]
    assert names == case["expected"]["due_order"]


# claim.fence@main ---------------------------------------------------------------------------------


def test_claims_are_fenced_as_in_hermes(store: Store) -> None:
    twice, unknown, replaced_owner, stale = cases("claim.fence@main")
    hourly(store)
    run_id = store.cron.run("n")
    claims = [
        store.runs.claim(run_id, token=token, now_ms=store.clock.ms, worker="w")
        for token in ("first", "second")
    ]
    assert [not isinstance(claim, str) for claim in claims] == twice["expected"]["results"]
    ghost = store.runs.claim(
        "ffffffffffff-20260101T000000Z", token="t", now_ms=store.clock.ms, worker="w"
    )
    assert [not isinstance(ghost, str)] == unknown["expected"]["results"]
    store.database.call("HSET", store.database.keys.run(run_id), "claim", "replacement")
    first = claims[0]
    assert not isinstance(first, str)
    done = Outcome(state=RunState.SUCCEEDED)
    marked = store.runs.finish(first, done, now_ms=store.clock.ms) == "ok"
    assert marked == replaced_owner["expected"]["results"][2]
    assert store.cron.show("n").last_run_at is replaced_owner["expected"]["last_run_at"]
    owns = store.runs.heartbeat({run_id: "first"}, now_ms=store.clock.ms)[run_id] == "ok"
    assert owns == stale["expected"]["owns_claim"]


# tick.* -------------------------------------------------------------------------------------------


def test_one_bad_job_never_stops_its_siblings(store: Store) -> None:
    raises, fails = cases("tick.exception")
    for name in raises["input"]["due"]:
        hourly(store, name)
    bad = store.cron.show(raises["input"]["raises_in"])
    store.database.call("HSET", store.database.keys.job(bad.id), "spec", "{}")
    store.clock.advance(3600)
    assert ticked(store).dispatched == raises["expected"]["tick_returns"]
    for name in fails["input"]["due"]:
        hourly(store, name)
    store.clock.advance(3600)
    report = ticked(store)
    assert report.dispatched >= fails["expected"]["tick_returns"]


def test_a_tick_during_a_global_pause_advances_no_job(store: Store) -> None:
    (gate,) = cases("tick.gate")
    job = hourly(store)
    store.cron.pause_all()
    store.clock.advance(3600)
    assert ticked(store).dispatched == gate["expected"]["tick_returns"]
    assert store.cron.show(job.id).next_run_at == job.next_run_at


def test_a_tick_without_the_lock_does_nothing(store: Store) -> None:
    from hermes_celery.scheduling.lease import Lease

    (case,) = cases("tick.lock")
    store.database.call("DEL", store.database.keys.term)
    Lease(store.database, owner="other", clock=store.clock).hold()
    mine = Lease(store.database, owner="me", clock=store.clock)
    assert (mine.hold() or 0) == case["expected"]["tick_returns"]


def test_the_schedule_advances_before_the_run_starts(store: Store) -> None:
    (case,) = cases("tick.advance_before_run")
    job = hourly(store)
    store.clock.advance(3600)
    assert ticked(store).dispatched == case["expected"]["tick_returns"]
    after = store.cron.show(job.id)
    assert after.next_run_at == NOON + timedelta(hours=2)
    assert store.runs.get(store.queue()[0]).state is RunState.QUEUED


# job.completed_retention@main ---------------------------------------------------------------------


def test_completed_jobs_are_kept_as_long_as_in_hermes(store: Store) -> None:
    done, gone, kept = cases("job.completed_retention@main")
    job = store.cron.add(JobRequest(schedule="in 1h", prompt="x"))
    store.clock.advance(3600)
    ticked(store)
    finish(store, store.queue()[0])
    record = store.cron.show(job.id).as_json()
    for name, value in done["expected"]["record"].items():
        assert record[name] == value, name
    history = History(store.database, retention=Retention())
    store.clock.advance(kept["input"]["last_run_days_ago"] * 86_400)
    history.remove_completed(store.jobs, store.clock.ms)
    assert store.cron.show(job.id).state is JobState.COMPLETED
    store.clock.advance(gone["input"]["last_run_days_ago"] * 86_400)
    history.remove_completed(store.jobs, store.clock.ms)
    assert store.jobs.count() == 0
