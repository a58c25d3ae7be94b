"""Tests of runs that Celery ends: the outcome depends on the state of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermes_celery.cli.screen import summary
from hermes_celery.core.job import JobRequest
from hermes_celery.core.policy import OnLost, Policy
from hermes_celery.core.run import DeliveryState, Outcome, Run, RunState
from hermes_celery.errors import RecordBroken, StoreError, StoreUnsuitable
from hermes_celery.running.background_writes import BackgroundWrites
from hermes_celery.running.ended_by_celery import EXPIRED, PURGED, RunEnder, RunMessage
from hermes_celery.scheduling.run_rescue import NEVER_CAME, RETRY_NEVER_CAME, Rescuer, RescueReport
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.store import (
    Actor,
    Claim,
    Database,
    HandedOn,
    Repairs,
    Runs,
    UndeliveredRun,
    connect,
)
from tests.acl import documented_rules, user
from tests.receivers import http_receiver
from tests.store.delivering_host import at
from tests.support import HandClock, PlainMessages, Store

TOKEN = 1
DAY = 86_400
SUCCEEDED = Outcome(state=RunState.SUCCEEDED)


class NoDeliveries:
    """Deliveries that must not be given up."""

    def give_up(self, delivery_id: str, why: str) -> None:
        raise AssertionError(delivery_id)


class Bench:
    """One queued run and its run ender."""

    def __init__(self, store: Store, **policy: object) -> None:
        self.store = store
        store.database.call("SET", store.database.keys.term, TOKEN)
        chosen = Policy(**policy)  # type: ignore[arg-type]
        job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="n", policy=chosen))
        store.clock.advance(3600)
        Ticker(store.due, store.messages).tick(token=TOKEN, now_ms=store.clock.ms)
        (self.id,) = store.queue()
        self.job_id = job.id
        self._run_ender = RunEnder(
            store.runs, deliveries=NoDeliveries, writes=BackgroundWrites(), clock=store.clock
        )
        self.message = RunMessage(run_id=self.id)

    @property
    def run_ender(self) -> RunEnder:
        """The run ender; reading `run` waits until its writes are done."""
        return self._run_ender

    @property
    def run(self) -> Run:
        """The run's record after all writes."""
        assert self._run_ender.drain(10)
        return self.store.runs.get(self.id)

    def claim(self, token: str = "7-abc") -> Claim:
        """Claim the run as the process 7."""
        return self.store.claim(self.id, token)

    def asks(self, token: str, *, message: str, hop: int = 0) -> Claim | str:
        """Return the answer to a message that claims the run."""
        return self.store.runs.claim(
            self.id, token=token, now_ms=self.store.clock.ms, worker="w", message=message, hop=hop
        )

    def rescued(self) -> RescueReport:
        """Do one rescue pass of the leader."""
        store = self.store
        return Rescuer(store.jobs, store.runs, store.messages).rescue(
            token=TOKEN, now_ms=store.clock.ms
        )

    def is_unpushed(self) -> bool:
        """Return whether the run is marked as having no message on a queue."""
        database = self.store.database
        return bool(database.call("HEXISTS", database.keys.run(self.id), "unpushed"))

    def is_job_free(self) -> bool:
        """Return whether the next occurrence would be dispatched."""
        return not self.store.database.call("EXISTS", self.store.database.keys.active(self.job_id))


@pytest.fixture
def bench(store: Store) -> Bench:
    return Bench(store)


def test_an_expired_message_skips_its_run_and_nothing_pushes_it_again(bench: Bench) -> None:
    bench.run_ender.expired(bench.message)
    assert (bench.run.state, bench.run.reason) == (RunState.SKIPPED, EXPIRED)
    assert bench.is_job_free()
    bench.store.clock.advance(DAY)
    assert bench.rescued().redelivered == 0


def test_the_message_of_an_earlier_attempt_ends_nothing(bench: Bench) -> None:
    failed = Outcome(state=RunState.FAILED, error="boom")
    now_ms = bench.store.clock.ms
    bench.store.runs.finish(bench.claim(), failed, now_ms=now_ms, retry_at_ms=now_ms + 1)
    bench.run_ender.expired(bench.message)
    bench.run_ender.failed(bench.message, "boom")
    assert (bench.run.state, bench.run.attempt) == (RunState.QUEUED, 2)


@pytest.mark.parametrize("reason", ["revoked", PURGED])
def test_a_running_run_is_not_cancelled_when_its_message_is_revoked_or_purged(
    bench: Bench, reason: str
) -> None:
    claim = bench.claim()
    bench.run_ender.cancelled(bench.id, reason=reason)
    bench.run_ender.expired(bench.message)
    assert bench.run.state is RunState.RUNNING
    assert bench.store.runs.finish(claim, SUCCEEDED, now_ms=bench.store.clock.ms) == "ok"


def test_the_death_of_a_process_ends_only_its_own_run(bench: Bench) -> None:
    bench.claim("7-abc")
    bench.run_ender.lost(bench.message, pid=70, error="gone", task_wants_it=False)
    assert bench.run.state is RunState.RUNNING
    bench.run_ender.lost(bench.message, pid=7, error="signal 9", task_wants_it=False)
    assert (bench.run.state, bench.run.error) == (RunState.LOST, "signal 9")
    assert bench.run.delivery is DeliveryState.PENDING
    assert bench.is_job_free()


def test_a_run_terminated_by_revoke_is_cancelled_when_its_process_dies(bench: Bench) -> None:
    bench.claim()
    bench.run_ender.terminated(bench.id)
    bench.run_ender.lost(bench.message, pid=7, error="signal 15", task_wants_it=True)
    assert (bench.run.state, bench.run.reason) == (RunState.CANCELLED, "revoked")


def test_a_time_limit_uses_the_jobs_retries(store: Store) -> None:
    bench = Bench(store, retries=1)
    for pid, state in ((7, RunState.QUEUED), (8, RunState.TIMED_OUT)):
        bench.claim(f"{pid}-abc")
        bench.run_ender.timed_out(bench.message, pid=pid, error="too long")
        # Celery reports a time limit twice.
        bench.run_ender.timed_out(bench.message, pid=pid, error="too long")
        assert bench.run.state is state
        store.clock.advance(60)
        bench.rescued()
    assert bench.run.attempt == 2


def test_a_message_put_back_by_celery_is_the_only_message_of_the_next_attempt(bench: Bench) -> None:
    bench.claim()
    bench.run_ender.comes_again(
        bench.message, pid=7, state=RunState.LOST, error="signal 9", wait_seconds=0
    )
    assert (bench.run.state, bench.run.attempt) == (RunState.QUEUED, 2)
    assert not bench.is_unpushed()
    bench.store.clock.advance(30)
    assert bench.rescued().redelivered == 0
    assert isinstance(bench.asks("8-abc", message=bench.id), Claim)


def test_on_lost_fail_wins_over_a_task_that_rejects_on_worker_lost(store: Store) -> None:
    bench = Bench(store, on_lost=OnLost.FAIL)
    bench.claim()
    bench.run_ender.comes_again(
        bench.message, pid=7, state=RunState.LOST, error="signal 9", wait_seconds=0
    )
    assert bench.run.state is RunState.LOST


def test_a_run_that_kills_its_process_five_times_is_lost(bench: Bench) -> None:
    for _ in range(5):
        bench.claim()
        bench.run_ender.comes_again(
            bench.message, pid=7, state=RunState.LOST, error="signal 9", wait_seconds=0
        )
    assert (bench.run.state, bench.run.attempt) == (RunState.LOST, 5)


def test_a_run_whose_worker_died_runs_again_if_its_project_asks_for_it(store: Store) -> None:
    class Wanted(PlainMessages):
        def runs_again(self, spec: object) -> bool:
            return True

    store.messages = Wanted(store.database.keys.default_queue)
    bench = Bench(store)
    bench.claim()
    store.clock.advance(16)
    assert bench.rescued().lost == 1
    assert (bench.run.state, bench.run.attempt) == (RunState.QUEUED, 2)


def handed_on(bench: Bench) -> None:
    """Hand the run on: its next message has the same id."""
    bench.store.runs.put_back(
        bench.claim(),
        ready_at_ms=bench.store.clock.ms + DAY * 1000,
        handed_on=HandedOn(message=bench.id, hop=1),
    )


def test_a_run_that_was_handed_on_accepts_only_its_next_message(
    bench: Bench,
) -> None:
    handed_on(bench)
    assert not bench.is_unpushed()
    assert summary(bench.run, b"").startswith("its task handed it on; the Celery message ")
    bench.store.clock.advance(DAY - 1)
    assert bench.rescued().redelivered == 0
    assert bench.asks("8", message=bench.id) == "taken", "the message that handed it on"
    assert bench.asks("8", message=f"{bench.id}.1") == "taken", "a message that was pushed again"
    claim = bench.asks("8", message=bench.id, hop=1)
    assert isinstance(claim, Claim)
    assert bench.store.runs.finish(claim, SUCCEEDED, now_ms=bench.store.clock.ms) == "ok"


def tried_again(bench: Bench, *, seconds: int, starts_again: bool = False, queue: str = "") -> None:
    """Let the run's task retry in a minute; its retry is awaited for `seconds`."""
    now_ms = bench.store.clock.ms
    bench.store.runs.put_back(
        bench.claim(),
        ready_at_ms=now_ms + seconds * 1000,
        handed_on=HandedOn(
            message=bench.id,
            hop=1,
            queue=queue,
            retry_at_ms=now_ms + 60_000,
            starts_again=starts_again,
        ),
    )


def test_a_run_goes_on_only_with_its_retry_and_is_lost_without_it(bench: Bench) -> None:
    tried_again(bench, seconds=3700)
    # A worker has taken it.
    bench.store.database.call("DEL", bench.store.database.keys.default_queue)
    assert summary(bench.run, b"").startswith("waits for the retry of ")
    before = bench.store.queue()
    bench.store.clock.advance(3699)
    assert bench.rescued().redelivered == 0
    assert bench.asks("8", message=bench.id) == "taken", "the message that was tried again"
    bench.store.clock.advance(2)
    assert bench.rescued().redelivered == 0
    assert (bench.run.state, bench.run.error) == (RunState.LOST, RETRY_NEVER_CAME)
    assert bench.store.queue() == before, "nothing was pushed"
    assert bench.is_job_free()


def test_a_run_that_may_start_twice_starts_again_and_its_late_retry_is_refused(
    bench: Bench,
) -> None:
    for push in (1, 2):
        tried_again_with = bench.id if push == 1 else f"{bench.id}.1"
        claim = bench.asks("7-abc", message=tried_again_with, hop=0)
        assert isinstance(claim, Claim)
        bench.store.runs.put_back(
            claim,
            ready_at_ms=bench.store.clock.ms + 120_000,
            handed_on=HandedOn(
                message=tried_again_with,
                hop=1,
                retry_at_ms=bench.store.clock.ms,
                starts_again=True,
            ),
        )
        # A worker has taken it.
        bench.store.database.call("DEL", bench.store.database.keys.default_queue)
        bench.store.clock.advance(121)
        assert bench.rescued().redelivered == 1
        assert bench.asks("8", message=bench.id, hop=1) == "taken", "an earlier retry"
        assert bench.asks("8", message=tried_again_with, hop=1) == "taken", "the last retry"
    assert bench.run.retry_at is None
    assert isinstance(bench.asks("9", message=f"{bench.id}.2"), Claim)


def test_a_retry_in_time_continues_a_run_that_may_start_twice(bench: Bench) -> None:
    tried_again(bench, seconds=120, starts_again=True)
    claim = bench.asks("8", message=bench.id, hop=1)
    assert isinstance(claim, Claim)
    assert bench.run.retry_at is None
    bench.store.clock.advance(10)
    assert bench.store.runs.finish(claim, SUCCEEDED, now_ms=bench.store.clock.ms) == "ok"


def test_the_message_that_handed_a_run_on_does_not_end_it(bench: Bench) -> None:
    handed_on(bench)
    for end in (bench.run_ender.expired, bench.run_ender.not_called):
        end(bench.message)
    bench.run_ender.failed(bench.message, "after it had sent itself on")
    before = bench.run.state
    bench.run_ender.expired(RunMessage(run_id=bench.id, hop=1))
    assert [before, bench.run.state] == [RunState.QUEUED, RunState.SKIPPED]


def test_a_retry_that_expires_skips_its_run(bench: Bench) -> None:
    bench.store.runs.put_back(
        bench.claim(), ready_at_ms=bench.store.clock.ms, handed_on=HandedOn(hop=1)
    )
    bench.run_ender.expired(bench.message)
    before = bench.run.state
    bench.run_ender.expired(RunMessage(run_id=bench.id, hop=1))
    assert [before, bench.run.state] == [RunState.QUEUED, RunState.SKIPPED]


def test_a_run_whose_next_message_never_comes_is_lost_after_a_day(bench: Bench) -> None:
    handed_on(bench)
    bench.store.database.call("DEL", bench.store.database.keys.default_queue)
    bench.store.clock.advance(DAY + 1)
    bench.rescued()
    assert (bench.run.state, bench.run.error) == (RunState.LOST, NEVER_CAME)
    assert bench.is_job_free()


def passes(bench: Bench, seconds: int) -> None:
    """Let time pass, with a rescue every minute."""
    for _ in range(seconds // 60):
        bench.store.clock.advance(60)
        assert bench.rescued().redelivered == 0


def test_a_retry_that_is_still_on_its_queue_is_not_lost(bench: Bench) -> None:
    tried_again(bench, seconds=3700)
    assert bench.store.queue() == [bench.id], "nobody is there to take it"
    passes(bench, 5 * 3600)
    assert bench.run.state is RunState.QUEUED
    # A worker has taken it, and performs others first.
    bench.store.database.call("DEL", bench.store.database.keys.default_queue)
    passes(bench, 3000)
    assert isinstance(bench.asks("8", message=bench.id, hop=1), Claim)


def test_a_retry_that_left_its_queue_and_never_ran_is_lost(bench: Bench) -> None:
    tried_again(bench, seconds=3700)
    passes(bench, 2 * 3600)
    bench.store.database.call("DEL", bench.store.database.keys.default_queue)
    passes(bench, 2 * 3600)
    assert (bench.run.state, bench.run.error) == (RunState.LOST, RETRY_NEVER_CAME)
    assert bench.is_job_free()


def test_a_run_that_may_start_twice_waits_for_a_retry_on_its_queue(
    bench: Bench,
) -> None:
    tried_again(bench, seconds=120, starts_again=True)
    passes(bench, 5 * 3600)
    assert bench.store.queue() == [bench.id], "no second message"
    assert isinstance(bench.asks("8", message=bench.id, hop=1), Claim)


def test_a_run_that_may_start_twice_starts_again_once_its_retry_has_left_its_queue(
    bench: Bench,
) -> None:
    tried_again(bench, seconds=120, starts_again=True)
    passes(bench, 3600)
    bench.store.database.call("DEL", bench.store.database.keys.default_queue)
    bench.store.clock.advance(601)
    assert bench.rescued().redelivered == 1
    assert len(bench.store.queue()) == 1
    assert bench.asks("8", message=bench.id, hop=1) == "taken", "the retry that left its queue"


def test_a_retry_that_left_its_queue_late_is_lost_after_twelve_more_hours(bench: Bench) -> None:
    tried_again(bench, seconds=60 + 12 * 3600)
    passes(bench, 13 * 3600)
    bench.store.database.call("DEL", bench.store.database.keys.default_queue)
    passes(bench, 11 * 3600)
    assert bench.run.state is RunState.QUEUED
    passes(bench, 2 * 3600)
    assert (bench.run.state, bench.run.error) == (RunState.LOST, RETRY_NEVER_CAME)


def test_a_retry_that_is_on_another_queue_is_not_lost(bench: Bench) -> None:
    database = bench.store.database
    other, key = f"{database.keys.default_queue}:other", database.keys.run(bench.id)
    tried_again(bench, seconds=3700, queue=other)
    database.call("RENAME", database.keys.default_queue, other)
    passes(bench, 5 * 3600)
    assert bench.run.state is RunState.QUEUED
    assert isinstance(bench.asks("8", message=bench.id, hop=1), Claim)
    assert not database.call("HEXISTS", key, "handed_queue")


class Refusing(Runs):
    """Runs whose check of a queue fails with `refusal`."""

    refusal: StoreError

    def is_on_queue(self, waiting: UndeliveredRun, *, queue: str, actor: Actor) -> bool:
        raise self.refusal


@pytest.mark.parametrize(
    "refusal", [StoreError("no memory left"), StoreUnsuitable("it is a replica")]
)
def test_a_retry_is_not_lost_while_the_server_refuses_the_check(
    bench: Bench, refusal: StoreError
) -> None:
    store = bench.store
    tried_again(bench, seconds=3700)
    store.clock.advance(3701)
    refusing = Refusing(store.database)
    refusing.refusal = refusal
    with pytest.raises(type(refusal), match=str(refusal)):
        Rescuer(store.jobs, refusing, store.messages).rescue(token=TOKEN, now_ms=store.clock.ms)
    assert bench.run.state is RunState.QUEUED


def test_a_retry_is_not_lost_when_another_key_than_its_queue_is_broken(bench: Bench) -> None:
    store, reported = bench.store, list[str]()
    tried_again(bench, seconds=3700)
    store.clock.advance(3701)
    refusing = Refusing(store.database)
    refusing.refusal = RecordBroken("another", "is a list")
    Rescuer(
        store.jobs,
        refusing,
        store.messages,
        on_broken=lambda job_id, key, what: reported.append(f"{job_id} {key} {what}"),
    ).rescue(token=TOKEN, now_ms=store.clock.ms)
    assert reported == [f"{bench.job_id} another is a list"]
    assert bench.run.state is RunState.QUEUED


def test_a_retry_on_a_queue_that_the_leader_may_not_read_is_reported_and_lost(
    valkey: Database, valkey_url: str, clock: HandClock
) -> None:
    name = valkey.keys.namespace
    with user(valkey_url, documented_rules(name)) as url:
        database = Database(connect(url), keys=valkey.keys)
        bench, reported = Bench(Store(database, clock)), list[str]()
        store = bench.store
        tried_again(bench, seconds=3700, queue="somebody-else's")
        clock.advance(3701)
        Rescuer(
            store.jobs,
            store.runs,
            store.messages,
            on_broken=lambda job_id, key, what: reported.append(what),
        ).rescue(token=TOKEN, now_ms=clock.ms)
        (line,) = reported
        assert line.startswith("its message cannot be looked for")
        assert bench.run.state is RunState.LOST
        database.close()


def test_a_retry_on_a_key_that_is_not_a_queue_is_reported_and_lost(bench: Bench) -> None:
    store = bench.store
    tried_again(bench, seconds=3700, queue=store.database.keys.run(bench.id))
    store.clock.advance(3701)
    reported: list[str] = []
    Rescuer(
        store.jobs,
        store.runs,
        store.messages,
        on_broken=lambda job_id, key, what: reported.append(f"{job_id} {key} {what}"),
    ).rescue(token=TOKEN, now_ms=store.clock.ms)
    (line,) = reported
    assert line.startswith(f"{bench.job_id} run '{bench.id}' its message cannot be looked for")
    assert bench.run.state is RunState.LOST
    assert bench.is_job_free()


@pytest.mark.parametrize("starts_again", [False, True])
def test_repairing_the_queued_index_restores_the_deadline_of_a_retry(
    valkey: Database, clock: HandClock, starts_again: bool
) -> None:
    bench = Bench(Store(valkey, clock))
    tried_again(bench, seconds=3840, starts_again=starts_again)
    before = valkey.call("ZSCORE", valkey.keys.queued, bench.id)
    assert before
    valkey.call("DEL", valkey.keys.queued)
    Repairs(valkey).job(bench.job_id, now_ms=clock.ms, token=TOKEN)
    assert valkey.call("ZSCORE", valkey.keys.queued, bench.id) == before


def test_a_retry_that_runs_clears_the_notes_about_its_queue(bench: Bench) -> None:
    tried_again(bench, seconds=3700)
    passes(bench, 2 * 3600)
    key = bench.store.database.keys.run(bench.id)
    assert bench.store.database.call("HEXISTS", key, "on_queue_ms")
    assert isinstance(bench.asks("8", message=bench.id, hop=1), Claim)
    forgotten = bench.store.database.call("HMGET", key, "on_queue_ms", "patience_ms", "retry_ms")
    assert forgotten == [None] * 3


def test_a_retry_with_an_invalid_time_on_its_queue_is_still_lost(bench: Bench) -> None:
    tried_again(bench, seconds=3700)
    database = bench.store.database
    database.call("DEL", database.keys.default_queue)
    database.call("HSET", database.keys.run(bench.id), "on_queue_ms", "9" * 16)
    passes(bench, 3720)
    assert bench.run.state is RunState.LOST


def test_a_handed_on_run_that_left_the_queued_index_is_repaired_and_not_lost(
    valkey: Database, clock: HandClock
) -> None:
    bench = Bench(Store(valkey, clock))
    handed_on(bench)
    database, store = bench.store.database, bench.store
    database.call("DEL", database.keys.default_queue)
    for gone in (
        [database.keys.queued],
        [database.keys.queued, database.keys.active(bench.job_id)],
    ):
        database.call("DEL", *gone)
        found = Repairs(database).job(bench.job_id, now_ms=store.clock.ms, token=TOKEN)
        assert [finding.is_mended for finding in found] == [True]
        passes(bench, 3 * 3600)
        assert bench.run.state is RunState.QUEUED
    assert store.queue() == [], "no second message"
    assert isinstance(bench.asks("8", message=bench.id, hop=1), Claim)


@pytest.mark.parametrize("value", ["junk", "9" * 19])
@pytest.mark.parametrize("name", ["hop", "handed_hop"])
def test_an_invalid_hop_count_blocks_a_run_until_it_is_repaired(
    valkey: Database, clock: HandClock, name: str, value: str
) -> None:
    bench = Bench(Store(valkey, clock))
    handed_on(bench)
    database, now_ms = bench.store.database, bench.store.clock.ms
    database.call("HSET", database.keys.run(bench.id), name, value)
    with pytest.raises(RecordBroken, match=name):
        bench.asks("8", message=bench.id, hop=1)
    with pytest.raises(RecordBroken, match=name):
        bench.store.runs.cancel(bench.id, reason="r", now_ms=now_ms)
    assert name in (bench.run.fault or "")
    (found,) = Repairs(database).job(bench.job_id, now_ms=now_ms, token=TOKEN)
    assert found.is_mended
    assert isinstance(bench.asks("8", message=bench.id, hop=1), Claim)


def test_a_next_message_may_fail_a_run_before_the_run_is_put_back(store: Store) -> None:
    bench = Bench(store)
    claim = bench.claim()
    pauses: list[float] = []

    def put_back(seconds: float) -> None:
        pauses.append(seconds)
        store.runs.put_back(claim, ready_at_ms=0, handed_on=HandedOn(message=bench.id, hop=1))

    run_ender = RunEnder(
        store.runs,
        deliveries=NoDeliveries,
        writes=BackgroundWrites(),
        clock=store.clock,
        pause=put_back,
    )
    run_ender.handed_on_failed(bench.id, "a step failed")
    assert run_ender.drain(10)
    assert (bench.run.state, bench.run.error) == (RunState.FAILED, "a step failed")
    assert len(pauses) == 1


def test_a_delivery_whose_message_is_revoked_fails_and_makes_an_incident(
    valkey: Database, clock: HandClock, tmp_path: Path
) -> None:
    host = at(valkey, clock, tmp_path)
    with http_receiver() as http:
        host.job(http.url)
        run = host.end(output="said")
        host.deliverer().give_up(run.id, "its message was revoked")
        assert host.standing(run) is DeliveryState.FAILED
        assert host.work_off() in ([], ["over"])
        assert http.messages == []
    (incident,) = host.incidents.open()
    assert "its message was revoked" in incident.text
