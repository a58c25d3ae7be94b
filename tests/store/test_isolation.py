"""Tests that one failing part of a beat does not stop the others."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from hermes_celery.core.job import JobSpec
from hermes_celery.errors import RecordBroken, StoreError, StoreUnavailable
from hermes_celery.running.heartbeat import Heartbeats
from hermes_celery.scheduling.beat import Beat
from hermes_celery.scheduling.leader_duties import LeaderDuties, LeaderHooks
from hermes_celery.scheduling.lease import LEASE_MS, Lease
from hermes_celery.scheduling.living_beats import LivingBeats
from hermes_celery.scheduling.resharding import reshard
from hermes_celery.scheduling.run_rescue import Rescuer
from hermes_celery.scheduling.shard import Shard
from hermes_celery.store import (
    BrokenJob,
    Claim,
    Database,
    DueIndex,
    History,
    Retention,
    Shards,
    Waker,
)
from hermes_celery.store.database import shard_of
from tests.store.test_bad_values import Impatient
from tests.support import (
    HandClock,
    PlainMessages,
    Store,
    a_job,
    eventually,
    replaced,
    without_threads,
)

TOKEN = 7


class Failing(DueIndex):
    """A due index that raises an unexpected error."""

    def next_due_ms(self) -> int | None:
        raise ZeroDivisionError("unexpected")


class Parts:
    """The parts of a beat; tests replace some by failing ones."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.index: Callable[[int], DueIndex] = lambda n: DueIndex(store.database, shard=n)
        self.on_pass: Callable[[int, int], None] = lambda token, now_ms: None
        self.on_lead: Callable[[], None] = lambda: None
        self.waker: Waker = Impatient(store.database)
        self.reported: list[tuple[str, str, str]] = []
        self.paused: list[float] = []

    def beat(self) -> Beat:
        store, database, clock = self.store, self.store.database, self.store.clock
        return Beat(
            LivingBeats(Shards(database), owner="b", clock=clock, on_broken=self.tell),
            lambda number: Shard(
                number,
                lease=Lease(database, owner="b", clock=clock, shard=number, on_broken=self.tell),
                due_index=self.index(number),
                messages=store.messages,
                clock=clock,
                on_broken=self.tell,
            ),
            LeaderDuties(
                Rescuer(store.jobs, store.runs, store.messages, on_broken=self.tell),
                History(database, retention=Retention()),
                clock=clock,
                hooks=LeaderHooks(on_lead=self.on_lead, on_pass=self.on_pass),
                on_broken=self.tell,
            ),
            waker=self.waker,
            clock=clock,
            pause=self.paused.append,
        )

    def tell(self, job_id: str, key: str, what: str) -> None:
        self.reported.append((job_id, key, what))


@pytest.fixture
def parts(store: Store) -> Parts:
    return Parts(store)


def due_jobs(store: Store, count: int) -> None:
    for number in range(count):
        job = replaced(a_job(id=f"{number:012x}"), next_run_at=store.cron.now)
        store.jobs.add(job)


def steps(beat: Beat, clock: HandClock, count: int) -> int:
    """Take steps, and return how many runs they dispatched."""
    dispatched = 0
    for _ in range(count):
        report = beat.step()
        dispatched += report.dispatched if report else 0
        clock.advance(0.3)
    return dispatched


def test_an_unexpected_error_ends_a_step_and_not_the_beat(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    class Crashing(Impatient):
        crashes = 3

        def wait(self, seconds: float) -> bool:
            self.crashes -= 1
            if self.crashes >= 0:
                raise ZeroDivisionError("unexpected")
            return super().wait(seconds)

    parts.waker = Crashing(parts.store.database)
    due_jobs(parts.store, 2)
    beat = parts.beat()
    for _ in range(3):
        assert beat.step() is None
    assert parts.paused == [0.5, 1.0, 2.0]
    assert [r.getMessage().split()[0] for r in caplog.records if r.exc_info] == ["beat.step_failed"]
    due_jobs(parts.store, 0)
    assert len(parts.store.queue()) == 2, "jobs due before the error must be dispatched"
    beat.step()
    assert parts.paused == [0.5, 1.0, 2.0]


def test_a_failing_shard_does_not_stop_the_other_shards(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    store = parts.store
    due_jobs(store, 40)
    reshard(
        Shards(store.database), 4,
        lease_of=lambda n: Lease(store.database, owner="r", clock=store.clock, shard=n),
    )  # fmt: skip
    parts.index = lambda n: (Failing if n == 1 else DueIndex)(store.database, shard=n)
    others = sum(shard_of(f"{n:012x}", shards=4) != 1 for n in range(40))
    assert steps(parts.beat(), store.clock, 8) == others
    assert "unexpected" in caplog.text


def test_a_shard_with_an_index_of_the_wrong_type_does_not_stop_the_other_shards(
    parts: Parts,
) -> None:
    store = parts.store
    due_jobs(store, 40)
    reshard(
        Shards(store.database), 4,
        lease_of=lambda n: Lease(store.database, owner="r", clock=store.clock, shard=n),
    )  # fmt: skip
    key = store.database.keys.due_of(2)
    store.database.call("DEL", key)
    store.database.call("SET", key, "x")
    others = sum(shard_of(f"{n:012x}", shards=4) != 2 for n in range(40))
    assert steps(parts.beat(), store.clock, 8) == others
    assert {reported[1] for reported in parts.reported} == {key}


def test_a_failing_rescue_does_not_stop_ticks_and_is_tried_again(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def fail(token: int, now_ms: int) -> None:
        asked.append(now_ms)
        raise ZeroDivisionError("unexpected")

    parts.on_pass = fail
    beat = parts.beat()
    steps(beat, parts.store.clock, 30)
    due_jobs(parts.store, 2)
    assert steps(beat, parts.store.clock, 60) == 2
    gaps = [(b - a) / 1000 for a, b in pairwise(asked)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 5
    assert caplog.text.count("duty.failed") == 1


def test_after_an_outage_workers_get_time_before_their_runs_are_lost(parts: Parts) -> None:
    class SometimesAway(Impatient):
        is_away = False

        def wait(self, seconds: float) -> bool:
            if self.is_away:
                raise StoreUnavailable("the server is away")
            return super().wait(seconds)

    passes: list[int] = []
    parts.on_pass = lambda token, now_ms: passes.append(now_ms)
    parts.waker = waker = SometimesAway(parts.store.database)
    clock, beat = parts.store.clock, parts.beat()
    steps(beat, clock, 20)
    assert passes
    waker.is_away = True
    assert beat.step() is None
    waker.is_away = False
    passes.clear()
    steps(beat, clock, 16)
    assert passes == [], "for 4.8 seconds"
    steps(beat, clock, 4)
    assert passes


def test_the_first_duty_of_a_new_leader_is_tried_again_until_it_succeeds(parts: Parts) -> None:
    asked = []

    def fail_twice() -> None:
        asked.append(1)
        if len(asked) < 3:
            raise ZeroDivisionError("unexpected")

    parts.on_lead = fail_twice
    due_jobs(parts.store, 1)
    assert steps(parts.beat(), parts.store.clock, 30) == 1
    assert len(asked) == 3


def test_an_error_in_one_run_does_not_stop_the_rescue_of_others(store: Store) -> None:
    class Choking(PlainMessages):
        def queue(self, spec: JobSpec) -> str:
            if spec.name == "bad":
                raise ZeroDivisionError("unexpected")
            return super().queue(spec)

    database = store.database
    database.call("SET", database.keys.term, TOKEN)
    for name in ("bad", "good"):
        store.jobs.add(a_job(id={"bad": "b", "good": "a"}[name] * 12, name=name))
        store.cron.run(name)
    database.call("DEL", database.keys.default_queue)
    store.clock.advance(61)
    reported: list[str] = []
    report = Rescuer(
        store.jobs,
        store.runs,
        Choking(database.keys.default_queue),
        on_broken=lambda job_id, key, what: reported.append(job_id),
    ).rescue(token=TOKEN, now_ms=store.clock.ms)
    assert report.redelivered == 1
    assert [run_id[:12] for run_id in store.queue()] == ["a" * 12]


def test_an_unreadable_run_is_reported_and_the_next_one_is_pushed(store: Store) -> None:
    database = store.database
    database.call("SET", database.keys.term, TOKEN)
    for letter in "ba":
        store.jobs.add(a_job(id=letter * 12, name=letter))
    bad, good = store.cron.run("b"), store.cron.run("a")
    database.call("HDEL", database.keys.run(bad), "job_name")
    database.call("DEL", database.keys.default_queue)
    store.clock.advance(61)
    reported: list[str] = []
    Rescuer(
        store.jobs,
        store.runs,
        store.messages,
        on_broken=lambda job_id, key, what: reported.append(f"{job_id} {what}"),
    ).rescue(token=TOKEN, now_ms=store.clock.ms)
    assert reported == [f"{'b' * 12} cannot be read: job_name is missing"]
    assert good in store.queue()


def hold_lease(store: Store) -> tuple[int | None, list[tuple[str, str]]]:
    """Ask for the lease as a beat; return the token, and the reported repairs."""
    reported: list[tuple[str, str]] = []
    lease = Lease(
        store.database, owner="new", clock=store.clock,
        on_broken=lambda _, key, what: reported.append((key, what)),
    )  # fmt: skip
    return lease.hold(), reported


def test_a_lease_without_an_expiry_gets_one(store: Store) -> None:
    keys = store.database.keys
    store.database.call("SET", keys.lease, "by hand")
    token, reported = hold_lease(store)
    assert token is None
    assert reported == [
        (keys.lease, "had no expiry, so no other beat could take over; it was repaired")
    ]
    assert 0 < store.database.call("PTTL", keys.lease) <= LEASE_MS
    eventually(lambda: hold_lease(store)[0], what="a lease that can be taken")


@pytest.mark.parametrize("name", ["lease", "term", "leader"])
def test_a_value_of_a_wrong_type_is_quarantined_and_the_lease_is_taken(
    store: Store, name: str
) -> None:
    keys, key = store.database.keys, getattr(store.database.keys, name)
    store.database.call("SADD", key, "x")
    token, reported = hold_lease(store)
    assert token is not None
    assert [one for one, _ in reported] == [key]
    kept = keys.quarantine(key, at_ms=store.clock.ms)
    assert list(store.database.call("SMEMBERS", kept)) == ["x"]
    assert store.database.call("HGET", keys.leader, "owner") == "new"


@pytest.mark.parametrize("word", ["abc", "-5", "1" * 30, ""])
def test_an_invalid_term_is_replaced_by_the_current_time_in_ms(store: Store, word: str) -> None:
    old = Lease(store.database, owner="old", clock=store.clock)
    assert old.hold() == 1
    store.database.call("SET", store.database.keys.term, word)
    token, reported = hold_lease(store)
    assert token == store.clock.ms
    assert [key for key, _ in reported] == [store.database.keys.term]
    store.clock.advance(0.3)
    assert old.hold() is None


@pytest.mark.parametrize("value", ["abc", "0", "-1", "65", "1000000000", "1e3", " 2", "٢٢٢"])
def test_an_invalid_number_of_shards_is_replaced_by_the_number_of_terms(
    store: Store, value: str
) -> None:
    database = store.database
    for shard in range(3):
        database.call("SET", database.keys.term_of(shard), 5)
    database.call("SET", database.keys.shards, value)
    shards = Shards(database)
    assert shards.count() == 3, "the number of shards that ever had a leader"
    fault = shards.fault()
    assert isinstance(fault, RecordBroken)
    assert "not a number from 1 to 64; 3 is used instead" in str(fault)
    # Writing a job chooses its index by the same number.
    store.jobs.add(a_job(id="0000000000ff"))
    assert database.call("ZCARD", database.keys.due_of(0xFF % 3)) == 1


def test_a_beat_with_an_absurd_heartbeat_is_not_counted_as_living(store: Store) -> None:
    database = store.database
    database.call("ZADD", database.keys.beats, "inf", "ghost", store.clock.ms + 10**9, "another")
    living = Shards(database).join("me", now_ms=store.clock.ms, dead_ms=store.clock.ms + 900)
    assert living == {"me": store.clock.ms + 900}


def test_a_run_that_got_no_heartbeat_thread_is_not_kept_alive_by_a_later_run(
    store: Store,
) -> None:
    for letter in "ba":
        store.jobs.add(a_job(id=letter * 12, name=letter))
    left, later = (store.claim(store.cron.run(name), token=name) for name in "ba")
    heartbeats = Heartbeats(store.runs, clock=store.clock)
    with without_threads(), pytest.raises(RuntimeError), heartbeats.sent_for(left):
        raise AssertionError("it runs without a heartbeat")

    def beat_at(claim: Claim) -> float:
        return float(store.database.call("ZSCORE", store.database.keys.heartbeats, claim.run_id))

    first = beat_at(left)
    store.clock.advance(5)
    with heartbeats.sent_for(later):
        eventually(lambda: beat_at(later) > first + 1000, what="a heartbeat")
    assert beat_at(left) == first


def test_an_error_while_reading_one_runs_live_output_does_not_stop_heartbeats(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is an unexpected one."""
    for letter in "ba":
        store.jobs.add(a_job(id=letter * 12, name=letter))
    claims = [store.claim(store.cron.run(name), token=name) for name in "ba"]
    heartbeats = Heartbeats(store.runs, clock=store.clock)

    def choke() -> Any:
        raise ZeroDivisionError("unexpected")

    key = store.database.keys.heartbeats

    def beat_on() -> bool:
        return all(
            float(store.database.call("ZSCORE", key, claim.run_id)) > first + 1000
            for claim in claims
        )

    first = float(store.database.call("ZSCORE", key, claims[0].run_id))
    with heartbeats.sent_for(claims[0]) as bad, heartbeats.sent_for(claims[1]):
        bad.live.take = choke  # type: ignore[method-assign]
        store.clock.advance(5)
        eventually(beat_on, what="heartbeats of both")
    assert "run.print_lost" in caplog.text


def test_a_refused_command_does_not_stop_the_other_reads_of_a_pipeline(store: Store) -> None:
    database: Database = store.database
    keys = [database.keys.job(letter) for letter in "abc"]
    database.call("HSET", keys[0], "x", "1")
    database.call("RPUSH", keys[1], "x")
    first, second, third = database.hashes(keys)
    assert (first, third) == ({"x": "1"}, {})
    assert isinstance(second, RecordBroken)
    assert second.key == keys[1]
    answers = database.call_many([("HGET", key, "x") for key in keys])
    assert answers[0] == "1"
    assert isinstance(answers[1], StoreError)
    assert answers[2] is None


def test_a_job_of_the_wrong_type_does_not_stop_the_move_of_others_between_shards(
    store: Store,
) -> None:
    database = store.database
    for number in range(4):
        store.jobs.add(a_job(id=f"{number:012x}"))
    bad = f"{1:012x}"
    database.call("DEL", database.keys.job(bad))
    database.call("SET", database.keys.job(bad), "x")
    shards = Shards(database)
    assert shards.sort(0, shards=4, start=0) == (2, 2)
    assert list(database.call("ZRANGE", database.keys.due, 0, -1)) == [f"{0:012x}", bad]
    assert all(database.call("ZCARD", database.keys.due_of(n)) == 1 for n in (2, 3))


class FaultReports:
    """Leader duties whose fault reports can be made to fail."""

    def __init__(self, store: Store) -> None:
        self.received: list[str] = []
        self.refused: set[str] = set()
        self.away = False
        self.clock = store.clock
        self.duties = LeaderDuties(
            Rescuer(store.jobs, store.runs, store.messages),
            History(store.database, retention=Retention()),
            clock=store.clock,
            hooks=LeaderHooks(on_fault=self.receive),
        )

    def receive(self, fault: BrokenJob) -> None:
        if self.away:
            raise StoreUnavailable("away")
        if fault.job_id in self.refused:
            raise StoreError("refused")
        self.received.append(fault.job_id)

    def meet(self, *names: str) -> None:
        for name in names:
            self.duties.report_fault(BrokenJob(job_id=name, error="oops"))

    def passes(self, count: int = 10) -> None:
        for _ in range(count):
            self.clock.advance(70)
            self.duties.pass_if_due(TOKEN, is_busy=False)


def test_faults_that_come_while_a_report_is_refused_are_reported_later(store: Store) -> None:
    reports = FaultReports(store)
    reports.refused = {"a"}
    reports.meet("a", "b", "c", "b")
    assert reports.received == []
    reports.passes()
    assert reports.received == ["b", "c"]
    reports.refused = set()
    reports.passes()
    assert reports.received == ["b", "c", "a"]


def test_a_fault_is_reported_when_the_server_is_back(store: Store) -> None:
    reports = FaultReports(store)
    reports.away = True
    with pytest.raises(StoreUnavailable):
        reports.meet("a")
    reports.away = False
    reports.passes(1)
    assert reports.received == ["a"]


def test_at_most_a_thousand_unreported_faults_are_kept(store: Store) -> None:
    reports = FaultReports(store)
    names = [str(number) for number in range(1500)]
    reports.refused = {"0"}
    reports.meet(*names)
    reports.refused = set()
    reports.passes(1)
    assert sorted(reports.received) == sorted(names[500:])
