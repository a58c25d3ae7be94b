"""Troubles that no run reports of itself are found, told once, and told to be over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from hermes_celery.core.dead_letters import letter
from hermes_celery.core.incidents import Trouble, TroubleKind
from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import Occurrence, Outcome, RunState, Trigger
from hermes_celery.delivering.beat_watchdog import watch_beat
from hermes_celery.delivering.broken_records import BrokenRecords
from hermes_celery.delivering.dead_man_switch import SchedulerSwitch
from hermes_celery.delivering.outbox import RunAnnouncer
from hermes_celery.delivering.trouble_reporter import TroubleReporter
from hermes_celery.delivering.watchdog import Watchdog
from hermes_celery.store import (
    Asked,
    Database,
    ForeignQueue,
    ForeignQueues,
    Letters,
    Signs,
)
from tests.receivers import HttpReceiver, http_receiver
from tests.store.delivering_host import Place, at
from tests.support import HandClock, Store, eventually


@pytest.fixture
def place(valkey: Database, clock: HandClock, tmp_path: Path) -> Place:
    """A machine that delivers."""
    return at(valkey, clock, tmp_path)


@pytest.fixture
def http() -> Iterator[HttpReceiver]:
    """A web server that gets messages."""
    with http_receiver() as receiver:
        yield receiver


def watchdog(place: Place, *, alerts: str = "local", ping_url: str = "") -> Watchdog:
    store, told = place.store, reporter(place, alerts=alerts)
    return Watchdog(
        store.database,
        reporter=told,
        broken=BrokenRecords(told, place.incidents, clock=store.clock),
        clock=store.clock,
        switch=SchedulerSwitch(ping_url, pinger=place.pinger) if ping_url else None,
    )


def reporter(place: Place, *, alerts: str) -> TroubleReporter:
    return TroubleReporter(
        incidents=place.incidents,
        deliveries=place.deliveries,
        alerts=alerts,
        send_now=place.send_now,
    )


def push(place: Place, queue: str) -> None:
    """A run on that Redis list."""
    store = place.store
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    run_id = Occurrence(job_id=job.id, due_ms=store.clock.ms).run_id
    store.runs.trigger(
        job.spec,
        [Asked(run_id=run_id, message=b"m")],
        trigger=Trigger.MANUAL,
        now_ms=store.clock.ms,
        queue=queue,
        key=job.id,
    )


def worker_seen(store: Store) -> None:
    store.database.call("ZADD", store.database.keys.workers, store.clock.ms, "w@host")


def test_a_message_that_nobody_can_read_is_told_once_and_is_over_after_a_quiet_while(
    place: Place, http: HttpReceiver
) -> None:
    letters, scan = Letters(place.store.database), watchdog(place, alerts=http.url)
    for _ in range(3):
        dead = letter(b"x", queue="q", why="it is junk", worker="w", at_ms=place.store.clock.ms)
        letters.bury(dead)
        report = scan.scan(place.store.clock.ms)
        assert report is not None
        assert report.are_there_letters
        place.rescue()
        place.work_off()
        place.store.clock.advance(20)
        worker_seen(place.store)
    (told,) = http.messages
    assert "could not read a message on queue 'q' (it is junk) → hermes-celery letters" in told
    (incident,) = place.incidents.open()
    assert (incident.kind, incident.count) == (TroubleKind.LETTERS, 1)
    place.store.clock.advance(900)
    worker_seen(place.store)
    report = scan.scan(place.store.clock.ms)
    assert report is not None
    assert not report.are_there_letters
    assert place.incidents.open() == []


def test_a_run_that_nobody_takes_is_told_when_its_grace_is_over_and_when_it_ran(
    place: Place, http: HttpReceiver
) -> None:
    place.job(http.url)
    run_id = place.store.cron.run("disks")
    scan = watchdog(place)
    for seconds in (100, 1000, 700):
        place.store.clock.advance(seconds)
        worker_seen(place.store)
        scan.scan(place.store.clock.ms)
        place.rescue()
        place.work_off()
    assert http.messages == []
    place.store.clock.advance(10)
    worker_seen(place.store)
    report = scan.scan(place.store.clock.ms)
    assert report is not None
    assert report.late == 1
    place.rescue()
    place.work_off()
    assert "⚠️ Cron 'disks' is late: no worker has taken it" in http.messages[0]
    for _ in range(3):
        place.store.clock.advance(10)
        worker_seen(place.store)
        scan.scan(place.store.clock.ms)
        place.rescue()
        place.work_off()
    assert len(http.messages) == 1
    claim = place.store.claim(run_id)
    outcome = Outcome(state=RunState.SUCCEEDED, output=b"at last")
    place.store.runs.finish(
        claim, outcome, now_ms=place.store.clock.ms,
        follow_up=RunAnnouncer(place.messages, pinger=place.pinger).follow_up(claim, outcome),
    )  # fmt: skip
    place.work_off()
    assert http.messages[1] == "at last"
    assert "works again; it was late once" in http.messages[2]


def test_a_retry_that_a_worker_took_with_it_is_told(place: Place, http: HttpReceiver) -> None:
    job = place.job(http.url)
    store = place.store
    claim = store.claim(store.cron.run(job.id))
    now_ms = store.clock.ms
    store.runs.put_back(
        claim, ready_at_ms=now_ms + 4_000_000, handed_on=claim.run_id, handed_hop=1,
        retry_at_ms=now_ms + 30_000,
    )  # fmt: skip
    scan = watchdog(place)
    for seconds, late in ((89, 0), (10, 1)):
        store.clock.advance(seconds)
        worker_seen(store)
        report = scan.scan(store.clock.ms)
        assert report is not None
        assert report.late == late
    (told,) = [one for one in place.incidents.open() if one.kind is TroubleKind.LATE]
    assert "its run waits for the retry that a worker took with it" in told.text


def test_a_scan_comes_at_most_every_ten_seconds(place: Place) -> None:
    scan = watchdog(place)
    assert scan.scan(place.store.clock.ms) is not None
    assert scan.scan(place.store.clock.ms + 9_999) is None
    assert scan.scan(place.store.clock.ms + 10_000) is not None


def test_a_job_that_is_overdue_is_told(place: Place, http: HttpReceiver) -> None:
    job = place.job(http.url)
    place.store.clock.advance(3600 + 121)
    report = watchdog(place).scan(place.store.clock.ms)
    assert report is not None
    assert report.missed == 1
    place.rescue()
    place.work_off()
    assert http.messages == [
        f"⚠️ Cron 'disks' should have run and did not → hermes-celery show {job.id}"
    ]


def test_an_occurrence_that_was_dropped_is_told(place: Place, http: HttpReceiver) -> None:
    place.job(http.url)
    scan = watchdog(place)
    scan.scan(place.store.clock.ms)
    run_id = place.store.cron.run("disks")
    place.store.clock.advance(10)
    place.store.runs.expire(run_id, now_ms=place.store.clock.ms)
    report = scan.scan(place.store.clock.ms)
    assert report is not None
    assert report.missed == 1
    place.rescue()
    place.work_off()
    assert "did not run: expired" in http.messages[0]


def test_a_beat_that_did_not_tick_is_told_by_the_next_leader(
    place: Place, http: HttpReceiver
) -> None:
    watchdog(place, alerts=http.url).scan(place.store.clock.ms)
    place.store.clock.advance(125)
    report = watchdog(place, alerts=http.url).scan(place.store.clock.ms)
    assert report is not None
    assert report.is_beat_back
    place.rescue()
    place.work_off()
    assert http.messages == [
        "⚠️ no beat has ticked for 2 min 5 s, since 12:00:00 UTC; one does again"
    ]
    assert place.incidents.open() == []


def test_workers_tell_of_a_missing_beat_at_once_and_only_one_of_them(
    place: Place, http: HttpReceiver
) -> None:
    place.job("local")
    watchdog(place).scan(place.store.clock.ms)
    signs = Signs(place.store.database)
    place.store.clock.advance(39)
    assert not watch_beat(signs, reporter(place, alerts=http.url), now_ms=place.store.clock.ms)
    place.store.clock.advance(1)
    for _ in range(3):
        assert watch_beat(signs, reporter(place, alerts=http.url), now_ms=place.store.clock.ms)
    assert len(http.messages) == 1
    assert "→ celery -A hermes_celery beat" in http.messages[0]
    watchdog(place, alerts=http.url).scan(place.store.clock.ms)
    place.rescue()
    place.work_off()
    assert http.messages[1:] == ["✅ a beat ticks again"]


def test_work_without_workers_is_told_from_the_beat_itself(
    place: Place, http: HttpReceiver
) -> None:
    place.job("local")
    place.store.cron.run("disks")
    scan = watchdog(place, alerts=http.url)
    for seconds in (0, 10, 19):
        place.store.clock.advance(seconds)
        scan.scan(place.store.clock.ms)
    assert http.messages == []
    place.store.clock.advance(11)
    report = scan.scan(place.store.clock.ms)
    assert report is not None
    assert report.are_workers_gone
    assert http.messages == [
        "⚠️ 1 runs wait and there is no worker → celery -A hermes_celery worker"
    ]
    place.store.clock.advance(10)
    worker_seen(place.store)
    scan.scan(place.store.clock.ms)
    place.rescue()
    place.work_off()
    assert http.messages[1:] == ["✅ there are workers again"]


def test_work_on_any_queue_counts_where_there_is_no_worker(
    place: Place, http: HttpReceiver
) -> None:
    # No other test's: a queue's name is its key.
    default = place.store.database.keys.default_queue
    gpu, reports = f"{default}-gpu", f"{default}-reports"
    push(place, reports)
    # A message of another priority waits on a list of its own.
    push(place, f"{gpu}\x06\x163")
    scan = watchdog(place, alerts=http.url)
    for _ in range(4):
        place.store.clock.advance(10)
        scan.scan(place.store.clock.ms)
    assert http.messages == [
        f"⚠️ 2 runs wait on queue '{gpu}', '{reports}' and there is no worker → "
        f"celery -A hermes_celery worker -Q {gpu},{reports}"
    ]


def test_what_others_consume_is_no_work_without_workers(place: Place, http: HttpReceiver) -> None:
    store = place.store
    queue = f"{store.database.keys.default_queue}-theirs"
    push(place, queue)
    scan = watchdog(place, alerts=http.url)
    for _ in range(4):
        store.clock.advance(10)
        theirs = ForeignQueue(name=queue, workers=["w@host"], seen_ms=store.clock.ms,
                              is_sure=True)  # fmt: skip
        ForeignQueues(store.database).write({queue: theirs})
        report = scan.scan(store.clock.ms)
        assert report is not None
        assert not report.are_workers_gone
    assert http.messages == []


def test_the_scheduler_has_a_dead_man_switch_of_its_own(place: Place, http: HttpReceiver) -> None:
    scan = watchdog(place, ping_url=f"http://{http.address}/beat")
    for _ in range(7):
        scan.scan(place.store.clock.ms)
        place.store.clock.advance(10)
    eventually(lambda: len(http.requests) == 2, what="two pings in a minute")
    assert [path for path, _ in http.requests] == ["/beat", "/beat"]


def test_an_old_incident_is_forgotten(place: Place) -> None:
    old = Trouble(kind=TroubleKind.LATE, subject="x", text="t", job_id="x")
    place.incidents.note(old, now_ms=place.store.clock.ms)
    place.store.clock.ms += int(timedelta(days=31).total_seconds() * 1000)
    watchdog(place).scan(place.store.clock.ms)
    assert place.incidents.open() == []


@pytest.mark.parametrize("is_by_us", [True, False])
def test_the_incidents_of_a_job_end_when_it_is_removed(place: Place, is_by_us: bool) -> None:
    """Also where an older program, or a limit of completed jobs, has removed it."""
    database, now_ms = place.store.database, place.store.clock.ms
    gone, kept = (place.store.cron.add(JobRequest(schedule="every 1h", prompt="x", name=name))
                  for name in ("gone", "kept"))  # fmt: skip
    for job in (gone, kept):
        for kind in (TroubleKind.FAILURE, TroubleKind.LATE):
            place.incidents.note(Trouble.of_job(job.spec, kind, "t"), now_ms=now_ms + 5)
    if is_by_us:
        place.store.cron.remove("gone")
        assert place.incidents.of_job(gone.id) == []
    else:
        database.call("DEL", database.keys.job(gone.id))
        watchdog(place).scan(now_ms)
        assert place.incidents.of_job(gone.id) == []
    assert len(place.incidents.of_job(kept.id)) == 2
    assert {one.job_id for one in place.incidents.open()} == {kept.id}


def test_an_incident_that_tells_why_a_job_is_gone_stays(place: Place) -> None:
    now_ms = place.store.clock.ms
    moved = Trouble(kind=TroubleKind.BROKEN, subject="", text="moved", job_id="a" * 12)
    place.incidents.note(moved, now_ms=now_ms)
    watchdog(place).scan(now_ms)
    assert len(place.incidents.open()) == 1
