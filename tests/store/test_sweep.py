"""Tests of the sweep: the leader checks all records in small steps, repairs and reports them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from hermes_celery.core.incidents import Trouble, TroubleKind
from hermes_celery.core.reconciling import Disagreement
from hermes_celery.core.server_address import BrokerNames
from hermes_celery.delivering.trouble_reporter import TroubleReporter
from hermes_celery.errors import LeaseLost, StoreError, StoreUnavailable
from hermes_celery.observe.lost_jobs import lost_jobs
from hermes_celery.scheduling.run_rescue import Rescuer
from hermes_celery.scheduling.sweep import EVERY_MS, REFILL_AGAIN_MS, RecordExaminer, Sweep
from hermes_celery.store import (
    BrokenJob,
    CheckMode,
    Database,
    Deliveries,
    DueIndex,
    Incidents,
    Jobs,
    Page,
    Records,
    Repairs,
    SharedKeys,
    SweepNotes,
)
from hermes_celery.store.jobs import Write
from tests.store.disorder import TOKEN, World
from tests.support import HandClock, a_job, replaced


@pytest.fixture
def world(valkey: Database, clock: HandClock) -> World:
    """Return a namespace with jobs in every state, all consistent."""
    return World(valkey, clock)


@pytest.fixture
def sweep(world: World) -> Sweep:
    """Return a leader's sweep."""
    return make_sweep(world)


def make_sweep(
    world: World,
    examiner: RecordExaminer | None = None,
    declared_name: Callable[[str, int], str] = lambda job_id, now_ms: "",
    reporter: TroubleReporter | None = None,
) -> Sweep:
    database = world.database
    return Sweep(
        examiner or world.examiner,
        jobs=Jobs(database),
        incidents=Incidents(database),
        reporter=reporter
        or TroubleReporter(
            incidents=Incidents(database), deliveries=Deliveries(database), alerts="local"
        ),
        notes=SweepNotes(database),
        declared_name=declared_name,
    )


def go_round(sweep: Sweep, world: World, *, most: int = 50, token: int = TOKEN) -> int:
    """Step until the sweep asks for a pause; return the number of steps."""
    for count in range(1, most + 1):
        if not sweep.step(token, world.clock.ms):
            return count
    raise AssertionError(f"there was more to do after {most} steps")


def open_incidents(world: World) -> list[tuple[TroubleKind, str]]:
    return sorted((one.kind, one.job_id) for one in Incidents(world.database).open())


def test_consistent_records_are_not_changed_and_make_no_incident(
    sweep: Sweep, world: World
) -> None:
    before = world.dump()
    go_round(sweep, world)
    after = world.dump()
    assert after.pop(world.keys.sweep)["mended"] == "0"
    assert after == before


def test_a_stopped_job_is_planned_again_and_its_incident_is_sent(
    sweep: Sweep, world: World
) -> None:
    world.call("HDEL", world.keys.job(world.idle.id), "next_ms")
    world.call("ZREM", world.keys.due, world.idle.id)
    go_round(sweep, world)
    assert world.store.jobs.get(world.idle.id).next_run_at is not None
    (incident,) = Incidents(world.database).open()
    assert (incident.kind, incident.job_id) == (TroubleKind.STOPPED, world.idle.id)
    assert incident.text.startswith("Cron 'idle': job ")
    assert incident.told == 1


def test_ten_thousand_jobs_are_checked_within_a_minute_of_steps(sweep: Sweep, world: World) -> None:
    jobs = [a_job(now=world.store.cron.now, id=f"{number:012x}") for number in range(10_000)]
    world.store.jobs.write_many([Write(job=job) for job in jobs])
    go_round(sweep, world)
    world.clock.ms += EVERY_MS
    last = max(world.call("ZRANGE", world.keys.jobs, 0, -1), key=lambda one: world.call(
        "ZRANK", world.keys.jobs, one))  # fmt: skip
    world.call("HDEL", world.keys.job(last), "next_ms")
    for _ in range(50):
        sweep.step(TOKEN, world.clock.ms)
        world.clock.ms += 1000
        if open_incidents(world):
            break
    assert open_incidents(world) == [(TroubleKind.STOPPED, last)]


def test_an_idle_step_makes_at_most_ten_calls(sweep: Sweep, world: World) -> None:
    """A script counts as one call; its pages limit what it reads inside."""
    go_round(sweep, world)

    def asked() -> int:
        stats = world.call("INFO", "commandstats")
        names = ("evalsha", "eval", "zrangebyscore", "hset", "get", "scan")
        return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in names)

    world.clock.ms += EVERY_MS
    before = asked()
    for _ in range(10):
        sweep.step(TOKEN, world.clock.ms)
        world.clock.ms += 1000
    assert asked() - before <= 100


def declare(world: World, *names: str) -> tuple[str, set[str]]:
    """Store jobs that a project declares; return the key of their set, and their ids."""
    made = [a_job(now=world.store.cron.now, id=f"{n:012x}") for n, _ in enumerate(names, start=1)]
    jobs = [
        replaced(job, spec=replaced(job.spec, name=name, managed_by="project:shop"))
        for job, name in zip(made, names, strict=True)
    ]
    world.store.jobs.write_many([Write(job=job) for job in jobs])
    return world.keys.managed("project:shop"), {job.id for job in jobs}


@pytest.mark.parametrize(
    "loss", [("DEL", "{key}"), ("SREM", "{key}", "000000000002"), ("SET", "{key}", "garbage")]
)
def test_a_lost_set_of_declared_jobs_is_derived_from_the_jobs_by_a_new_leader(
    sweep: Sweep, world: World, loss: tuple[str, ...]
) -> None:
    key, ids = declare(world, "stock", "old", "new")
    world.call(*(word.format(key=key) for word in loss))
    go_round(sweep, world)
    assert world.call("SMEMBERS", key) == ids
    texts = [one.text for one in Incidents(world.database).open()]
    assert all(key in text for text in texts)
    assert texts
    assert open_incidents(world) == [(TroubleKind.BROKEN, "")] * len(texts)


def test_a_set_that_is_lost_later_is_derived_within_ten_rounds(sweep: Sweep, world: World) -> None:
    key, ids = declare(world, "stock", "old")
    go_round(sweep, world)
    world.call("DEL", key)
    for _ in range(10):
        world.clock.ms += EVERY_MS
        go_round(sweep, world)
        sweep.step(TOKEN, world.clock.ms)
    assert world.call("SMEMBERS", key) == ids


def test_only_every_tenth_round_reads_the_definitions_of_all_jobs(
    sweep: Sweep, world: World
) -> None:
    declare(world, "stock", "old")
    go_round(sweep, world)

    def reads() -> int:
        stats = world.call("INFO", "commandstats")
        return int(stats.get("cmdstat_smembers", {}).get("calls", 0))

    before = reads()
    for _ in range(20):
        world.clock.ms += EVERY_MS
        for _ in range(4):
            sweep.step(TOKEN, world.clock.ms)
    # Each round reads the open incidents of no job, which is a set too.
    assert reads() - before == 20 + 2


@pytest.mark.parametrize("mends", [True, False])
def test_jobs_that_were_removed_meanwhile_are_not_added_to_their_set(
    database: Database, clock: HandClock, mends: bool
) -> None:
    world = World(database, clock)
    key, ids = declare(world, "stock", "old")
    records = world.examiner.records
    (page,) = records.jobs_and_managed()
    declared = records.declared(page)
    assert declared == {key: sorted(ids)}
    world.store.jobs.remove(world.store.jobs.find("old"))
    world.call("DEL", key)
    (found,) = records.refill_managed(page, declared, mends=mends)
    assert "lacked 1 job that its project declared" in found.text
    assert found.is_mended is mends
    assert Jobs(database).managed_by("project:shop") == ["000000000001"] * mends


def test_dead_index_entries_do_not_hide_runs_from_rescue(sweep: Sweep, world: World) -> None:
    for number in range(200):
        ghost = f"{number:012x}-20260622T120000Z"
        world.call("ZADD", world.keys.queued, number, ghost)
        world.call("ZADD", world.keys.heartbeats, number, ghost)
    world.call("ZADD", world.keys.heartbeats, 1000, world.run_of["running"])
    lost = world.run_of["waiting"]
    world.call("ZADD", world.keys.queued, 1000, lost)
    world.call("DEL", world.keys.default_queue)
    store = world.store
    for _ in range(5):
        sweep.step(TOKEN, world.clock.ms)
        Rescuer(store.jobs, store.runs, store.messages).rescue(token=TOKEN, now_ms=world.clock.ms)
    assert lost in store.queue()
    assert store.runs.get(world.run_of["running"]).state == "lost"
    assert world.call("ZCOUNT", world.keys.queued, "-inf", 200) == 0


def test_the_front_of_the_queued_index_is_checked_in_every_step(sweep: Sweep, world: World) -> None:
    """A round over a long backlog takes minutes before it starts at the front again."""
    go_round(sweep, world)
    for number in range(60):
        world.call("ZADD", world.keys.queued, number, f"{number:012x}-20260622T120000Z")
    sweep.step(TOKEN, world.clock.ms)
    assert world.call("ZCOUNT", world.keys.queued, 0, 60) == 0


def test_many_troubles_of_one_kind_make_about_twenty_incidents(
    sweep: Sweep, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [a_job(now=world.store.cron.now, id=f"{number:012x}") for number in range(300)]
    world.store.jobs.write_many([Write(job=job) for job in jobs])
    for job in jobs:
        world.call("ZREM", world.keys.due, job.id)
    caplog.set_level(logging.WARNING)
    go_round(sweep, world)
    assert world.call("ZCARD", world.keys.due) >= 300
    assert 20 <= len(open_incidents(world)) <= 22
    lines = [line for line in caplog.messages if line.startswith("repair.")]
    assert 20 <= len(lines) <= 50


def test_a_quarantined_index_is_refilled(sweep: Sweep, world: World) -> None:
    before = world.dump()
    for key in (world.keys.jobs, world.keys.due, world.keys.names, world.keys.job_runs):
        world.call("SET", key, "x")
    go_round(sweep, world)
    after = world.dump()
    for key in (world.keys.jobs, world.keys.due, world.keys.names, world.keys.job_runs):
        assert after[key] == before[key]
    assert len(world.quarantined()) == 4


class FailingOnce(RecordExaminer):
    """An examiner that fails at one page once.

    It notes the jobs of that page, and the jobs on pages read by the names of keys.
    """

    def __init__(self, database: Database, error: StoreError, *, at: int) -> None:
        super().__init__(
            repairs=Repairs(database),
            shared=SharedKeys(database, BrokerNames()),
            records=Records(database),
        )
        self.error, self.at, self.pages = error, at, 0
        self.missed: set[str] = set()
        self.read: set[str] = set()

    def looks(self, page: Page, mode: CheckMode) -> list[Callable[[], list[Disagreement]]]:
        return [lambda: self.look(page, mode)]

    def look(self, page: Page, mode: CheckMode) -> list[Disagreement]:
        self.pages += 1
        if self.pages == self.at:
            self.missed = set(page.work.jobs)
            raise self.error
        self.read |= set(page.work.jobs) if page.work.is_history else set()
        return [one for look in super().looks(page, mode) for one in look()]


def many_jobs(world: World, count: int = 1500) -> None:
    """Add more jobs than fit on one page of any index."""
    jobs = [a_job(now=world.store.cron.now, id=f"{number:012x}") for number in range(count)]
    world.store.jobs.write_many([Write(job=job) for job in jobs])


def move_by_a_worker(world: World, key: str) -> None:
    """Quarantine a key as a worker does whose script found it broken: its sweep takes no steps."""
    make_sweep(world).broken("", key, now_ms=world.clock.ms)


def move_by_hand(world: World, _: str) -> None:
    """Quarantine keys as `fsck --repair` does, and stop after that step."""
    world.examiner.keys(CheckMode(now_ms=world.clock.ms, is_deep=True))


@pytest.mark.parametrize("move", [move_by_a_worker, move_by_hand])
@pytest.mark.parametrize("name", ["due", "names", "jobs", "job_runs"])
def test_an_index_quarantined_by_a_worker_or_by_fsck_is_refilled(
    sweep: Sweep, world: World, name: str, move: Callable[[World, str], None]
) -> None:
    many_jobs(world)
    go_round(sweep, world)
    before, key = world.dump(), str(getattr(world.keys, name))
    world.call("SET", key, "x")
    move(world, key)
    assert len(world.quarantined()) == 1
    go_round(sweep, world)
    assert world.dump()[key] == before[key]


@pytest.mark.parametrize("name", ["names", "job_runs"])
def test_the_next_leader_completes_a_refill_that_was_interrupted(
    sweep: Sweep, world: World, name: str
) -> None:
    many_jobs(world)
    go_round(sweep, world)
    before, key = world.dump(), str(getattr(world.keys, name))
    world.call("SET", key, "x")
    move_by_hand(world, key)
    for _ in range(3):
        assert sweep.step(TOKEN, world.clock.ms)
    assert SweepNotes(world.database).refilled() == ""
    world.call("SET", world.keys.term, TOKEN + 1)
    go_round(make_sweep(world), world, token=TOKEN + 1)
    assert world.dump()[key] == before[key]
    notes = SweepNotes(world.database)
    assert notes.refilled() == notes.refill_asked() != ""


def test_a_completed_refill_is_not_repeated(sweep: Sweep, world: World) -> None:
    world.call("SET", world.keys.completed, "x")
    go_round(sweep, world)
    assert sweep.step(TOKEN, world.clock.ms) is False
    follower = make_sweep(world)
    world.call("DEL", world.keys.names)
    go_round(follower, world)
    assert not world.call("EXISTS", world.keys.names), "only a refill reads the definitions"


def test_a_refill_during_which_the_server_was_away_leaves_no_gap(world: World) -> None:
    many_jobs(world)
    # A step checks overdue entries first, and then one page.
    examiner = FailingOnce(world.database, StoreUnavailable("away"), at=4)
    sweep = make_sweep(world, examiner)
    before = world.dump()
    world.call("SET", world.keys.names, "x")
    with pytest.raises(StoreUnavailable):
        go_round(sweep, world)
    assert SweepNotes(world.database).refilled() == ""
    go_round(sweep, world)
    assert world.dump()[world.keys.names] == before[world.keys.names]
    assert examiner.missed
    assert examiner.missed <= examiner.read


def test_a_refill_with_a_page_that_failed_is_repeated_a_minute_later(world: World) -> None:
    many_jobs(world)
    examiner = FailingOnce(world.database, StoreError("refused"), at=3)
    sweep, notes = make_sweep(world, examiner), SweepNotes(world.database)
    world.call("SET", world.keys.names, "x")
    go_round(sweep, world)
    assert notes.refilled() == ""
    world.clock.ms += REFILL_AGAIN_MS
    go_round(sweep, world)
    assert notes.refilled() == notes.refill_asked() != ""


def test_the_incident_is_closed_when_all_records_agree_again(sweep: Sweep, world: World) -> None:
    world.call("SET", world.keys.completed, "x")
    go_round(sweep, world)
    world.clock.ms += EVERY_MS
    go_round(sweep, world)
    assert (TroubleKind.BROKEN, "") in open_incidents(world)
    world.clock.ms += 300_000
    for _ in range(3):
        world.clock.ms += EVERY_MS
        go_round(sweep, world)
        sweep.step(TOKEN, world.clock.ms)
    assert open_incidents(world) == []


def test_a_disagreement_that_cannot_be_repaired_is_reported_once(
    sweep: Sweep, world: World
) -> None:
    world.call("HSET", world.keys.job(world.idle.id), "state", "levitating")
    for _ in range(3):
        for _ in range(10):
            sweep.step(TOKEN, world.clock.ms)
        world.clock.ms += EVERY_MS
    (incident,) = Incidents(world.database).open()
    assert (incident.kind, incident.job_id, incident.count) == (
        TroubleKind.BROKEN,
        world.idle.id,
        1,
    )


def test_an_older_leader_repairs_nothing_and_raises(sweep: Sweep, world: World) -> None:
    world.call("ZREM", world.keys.due, world.idle.id)
    before = world.dump()
    with pytest.raises(LeaseLost):
        sweep.step(TOKEN - 1, world.clock.ms)
    assert world.dump() == before


def test_the_result_of_a_round_is_stored_for_doctor(sweep: Sweep, world: World) -> None:
    world.call("ZREM", world.keys.due, world.idle.id)
    sweep.step(TOKEN, world.clock.ms)
    sweep.step(TOKEN, world.clock.ms)
    note = SweepNotes(world.database).read()
    assert (note.jobs, note.mended, note.left) == (9, 1, 0)
    assert note.ended_ms == world.clock.ms


@pytest.mark.parametrize(
    ("family", "subject"),
    [("active", "idle"), ("held", "idle"), ("group", "g"), ("run", "waiting"), ("due", "")],
)
def test_a_key_that_a_script_reported_as_broken_is_repaired_at_once(
    sweep: Sweep, world: World, family: str, subject: str
) -> None:
    names: dict[str, Any] = {
        "active": world.keys.active(world.idle.id),
        "held": world.keys.held(world.idle.id),
        "group": world.keys.group("g"),
        "run": world.keys.run(world.run_of["waiting"]),
        "due": world.keys.due,
    }
    key, owner = names[family], world.waiting if family == "run" else world.idle
    world.call("SET", key, "x")
    assert sweep.broken(owner.id, key, now_ms=world.clock.ms)
    assert world.call("TYPE", key) != "string"
    assert len(world.quarantined()) == 1
    assert world.call("ZSCORE", world.keys.due, owner.id) is not None
    assert open_incidents(world)


def take_off(world: World, job_id: str, error: str) -> None:
    revision = world.call("HGET", world.keys.job(job_id), "revision")
    fault = BrokenJob(job_id=job_id, error=error, revision=revision)
    DueIndex(world.database).fault(fault, token=TOKEN)


def test_a_job_that_was_taken_off_the_schedule_is_reported_once(sweep: Sweep, world: World) -> None:
    take_off(world, world.idle.id, "its task cannot be called")
    for _ in range(2):
        sweep.taken_off(now_ms=world.clock.ms)
    (incident,) = Incidents(world.database).open()
    assert (incident.kind, incident.job_id, incident.count) == (
        TroubleKind.BROKEN,
        world.idle.id,
        1,
    )
    assert "taken off the schedule: its task cannot be called" in incident.text
    assert unreported_jobs(world) == []


def test_a_job_that_is_taken_off_the_schedule_for_the_same_reason_is_reported_again(
    sweep: Sweep, world: World
) -> None:
    """Somebody repaired it in between, and it worked."""
    incidents = Incidents(world.database)
    for _ in range(2):
        take_off(world, world.idle.id, "its task cannot be called")
        sweep.taken_off(now_ms=world.clock.ms)
        (incident,) = incidents.open()
        assert incident.told == 1
        incidents.end([incident], job_id=world.idle.id, now_ms=world.clock.ms)
        world.clock.ms += EVERY_MS


def test_many_jobs_taken_off_the_schedule_are_not_reported_as_vanished(
    sweep: Sweep, world: World
) -> None:
    """The first leader was killed before it reported any."""
    jobs = [a_job(now=world.store.cron.now, id=f"{number:012x}") for number in range(25)]
    world.store.jobs.write_many([Write(job=job) for job in jobs])
    for job in jobs:
        take_off(world, job.id, "no such zone")
    sweep.taken_off(now_ms=world.clock.ms)
    found = Incidents(world.database).open()
    assert {one.kind for one in found} == {TroubleKind.BROKEN}
    assert len(found) == 21
    (many,) = [one for one in found if not one.job_id]
    assert "no such zone; there are more faults" in many.text
    assert unreported_jobs(world) == []


def test_a_job_that_is_put_off_again_and_again_is_reported_once(sweep: Sweep, world: World) -> None:
    for _ in range(2):
        sweep.put_off(world.idle.id, "a newer version wrote it", now_ms=world.clock.ms)
    (incident,) = Incidents(world.database).open()
    assert (incident.kind, incident.count) == (TroubleKind.BROKEN, 1)
    assert "put off: a newer version wrote it" in incident.text


@pytest.mark.parametrize("becomes", ["nothing", "garbage"])
def test_a_job_whose_record_vanished_is_an_incident_until_it_is_acknowledged(
    sweep: Sweep, world: World, becomes: str
) -> None:
    key = world.keys.job(world.idle.id)
    world.call("DEL", key)
    if becomes == "garbage":
        world.call("SET", key, "garbage")
    go_round(sweep, world)
    (incident,) = Incidents(world.database).open()
    assert (incident.id, incident.job_name) == (f"gone-{world.idle.id}", "idle")
    assert incident.kind is TroubleKind.GONE
    assert incident.text.startswith(f"Cron 'idle' is gone: job {world.idle.id} ")
    assert f"`hermes-celery incidents ack {incident.id}`" in incident.text
    assert lost_jobs(world.database, None) == [incident.text]
    # The watchdog does not close this incident by itself.
    assert Incidents(world.database).of_gone_jobs() == []
    assert Incidents(world.database).ack(incident.id, now_ms=world.clock.ms) == "ok"
    assert lost_jobs(world.database, None) == []


def test_a_tick_that_meets_a_listed_job_without_a_record_reports_it(
    sweep: Sweep, world: World
) -> None:
    removed = a_job(id="f" * 12, name="removed")
    world.store.jobs.remove(Jobs(world.database).add(removed))
    sweep.gone(removed.id, now_ms=world.clock.ms)
    assert Incidents(world.database).open() == []
    world.call("DEL", world.keys.job(world.idle.id))
    world.call("ZREM", world.keys.due, world.idle.id)
    sweep.gone(world.idle.id, now_ms=world.clock.ms)
    (incident,) = Incidents(world.database).open()
    assert (incident.kind, incident.job_name) == (TroubleKind.GONE, "idle")


def test_a_declared_job_whose_record_vanished_is_reported_as_coming_back(world: World) -> None:
    declared = {world.idle.id: "Idle"}
    sweep = make_sweep(world, declared_name=lambda job_id, now_ms: declared.get(job_id, ""))
    world.call("DEL", world.keys.job(world.idle.id))
    go_round(sweep, world)
    (incident,) = Incidents(world.database).open()
    assert (incident.kind, incident.job_name) == (TroubleKind.BROKEN, "Idle")
    assert "the job is declared, so the beat stores it again" in incident.text
    assert lost_jobs(world.database, None) == []


def test_many_vanished_jobs_make_twenty_incidents_and_one_with_the_total(
    sweep: Sweep, world: World
) -> None:
    for number in range(30):
        job = a_job(id=f"{number:012x}", name=f"job {number}")
        Jobs(world.database).add(job)
        world.call("DEL", world.keys.job(job.id))
    go_round(sweep, world)
    found = {one.id: one for one in Incidents(world.database).open()}
    assert "30 in one check" in found.pop("gone-more").text
    assert len(found) == 20
    assert {one.kind for one in found.values()} == {TroubleKind.GONE}


class Refusing(TroubleReporter):
    """A reporter that raises an error until `error` is None."""

    def __init__(self, database: Database, error: StoreError) -> None:
        super().__init__(
            incidents=Incidents(database), deliveries=Deliveries(database), alerts="local"
        )
        self.error: StoreError | None = error

    def tell(self, trouble: Trouble, *, now_ms: int) -> bool:
        if self.error is not None:
            raise self.error
        return super().tell(trouble, now_ms=now_ms)


def unreported_jobs(world: World) -> list[str]:
    return [note.job_id for note in SweepNotes(world.database).untold()]


def test_the_next_leader_reports_a_vanished_job(sweep: Sweep, world: World) -> None:
    """The first leader was killed between repair and report."""
    world.call("DEL", world.keys.job(world.idle.id))
    world.examiner.repairs.job(world.idle.id, now_ms=world.clock.ms, token=TOKEN)
    assert world.call("ZSCORE", world.keys.jobs, world.idle.id) is None
    assert unreported_jobs(world) == [world.idle.id]
    go_round(sweep, world)
    (incident,) = Incidents(world.database).open()
    assert (incident.id, incident.job_name) == (f"gone-{world.idle.id}", "idle")
    assert unreported_jobs(world) == []


@pytest.mark.parametrize("error", [StoreError("out of memory"), StoreUnavailable("away")])
def test_a_vanished_job_is_reported_when_the_server_accepts_writes_again(
    world: World, error: StoreError
) -> None:
    reporter = Refusing(world.database, error)
    sweep = make_sweep(world, reporter=reporter)
    world.call("DEL", world.keys.job(world.idle.id))
    for _ in range(3):
        with suppress(StoreUnavailable):
            go_round(sweep, world)
    assert world.call("ZSCORE", world.keys.jobs, world.idle.id) is None
    assert open_incidents(world) == []
    reporter.error = None
    sweep.step(TOKEN, world.clock.ms)
    assert open_incidents(world) == [(TroubleKind.GONE, "")]


def test_the_findings_of_a_page_are_reported_even_if_its_refill_fails(world: World) -> None:
    class Unfillable(Records):
        def refill(self, page: Page, *, now_ms: int, mends: bool = True) -> list[Disagreement]:
            raise StoreError("refused")

    examiner = RecordExaminer(
        repairs=world.examiner.repairs,
        shared=world.examiner.shared,
        records=Unfillable(world.database),
    )
    world.call("HDEL", world.keys.job(world.idle.id), "next_ms")
    world.call("ZREM", world.keys.due, world.idle.id)
    make_sweep(world, examiner).step(TOKEN, world.clock.ms)
    assert (TroubleKind.STOPPED, world.idle.id) in open_incidents(world)


def test_an_unrepaired_disagreement_is_reported_when_the_server_accepts_writes_again(
    world: World,
) -> None:
    reporter = Refusing(world.database, StoreError("out of memory"))
    sweep = make_sweep(world, reporter=reporter)
    world.call("HSET", world.keys.job(world.idle.id), "state", "levitating")
    go_round(sweep, world)
    assert open_incidents(world) == []
    reporter.error = None
    world.clock.ms += EVERY_MS
    go_round(sweep, world)
    assert open_incidents(world) == [(TroubleKind.BROKEN, world.idle.id)]


def test_an_unrepaired_disagreement_that_was_away_is_reported_again(
    sweep: Sweep, world: World
) -> None:
    """Somebody repaired it, and much later it is there again."""
    incidents = Incidents(world.database)
    key = world.keys.job(world.idle.id)
    for _ in range(2):
        world.call("HSET", key, "state", "levitating")
        for _ in range(2):
            go_round(sweep, world)
            world.clock.ms += EVERY_MS
        (incident,) = incidents.open()
        assert (incident.job_id, incident.told) == (world.idle.id, 1)
        world.call("HSET", key, "state", "scheduled")
        incidents.end([incident], job_id=world.idle.id, now_ms=world.clock.ms)
        world.clock.ms += 600_000
        go_round(sweep, world)
        assert incidents.open() == []


def test_the_next_leader_reports_a_job_that_was_taken_off_the_schedule(
    sweep: Sweep, world: World
) -> None:
    """The first leader was killed between tick and report."""
    take_off(world, world.idle.id, "no such zone")
    assert world.call("HGET", world.keys.job(world.idle.id), "state") == "error"
    go_round(sweep, world)
    (incident,) = Incidents(world.database).open()
    assert (incident.kind, incident.job_id) == (TroubleKind.BROKEN, world.idle.id)
    assert "taken off the schedule: no such zone" in incident.text
    assert unreported_jobs(world) == []


@pytest.mark.parametrize("value", [b"\xff{", b'{"x": ' + b"[" * 100_000])
def test_an_unreadable_note_is_reported_with_its_job(
    sweep: Sweep, world: World, value: bytes
) -> None:
    world.call("HSET", world.keys.sweep, f"untold:{world.idle.id}", value, "untold:x", "y")
    sweep.step(TOKEN, world.clock.ms)
    (incident,) = Incidents(world.database).open()
    assert "is unreadable" in incident.text
    assert unreported_jobs(world) == []


def test_a_vanished_job_is_repaired_only_after_the_broken_key_of_the_notes(
    sweep: Sweep, world: World
) -> None:
    world.call("SET", world.keys.sweep, "x")
    world.call("DEL", world.keys.job(world.idle.id))
    found = world.examiner.repairs.job(world.idle.id, now_ms=world.clock.ms, token=TOKEN)
    assert found == []
    assert world.call("ZSCORE", world.keys.jobs, world.idle.id) is not None
    go_round(sweep, world)
    assert (TroubleKind.GONE, "") in open_incidents(world)


def test_a_vanished_job_stays_in_the_indexes_while_the_server_is_full(
    sweep: Sweep, world: World
) -> None:
    world.call("DEL", world.keys.job(world.idle.id))
    limit = world.call("CONFIG", "GET", "maxmemory")["maxmemory"]
    world.call("CONFIG", "SET", "maxmemory", 1)
    try:
        for _ in range(3):
            sweep.step(TOKEN, world.clock.ms)
            world.clock.ms += EVERY_MS
    finally:
        world.call("CONFIG", "SET", "maxmemory", limit)
    assert world.call("ZSCORE", world.keys.jobs, world.idle.id) is not None
    go_round(sweep, world)
    assert open_incidents(world) == [(TroubleKind.GONE, "")]
