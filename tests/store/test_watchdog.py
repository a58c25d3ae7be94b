"""Tests of the watchdog: troubles that no run reports are reported once, and so is their end."""

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
    Database,
    Destination,
    ForeignQueue,
    ForeignQueues,
    HandedOn,
    Letters,
    RequestedRun,
    TroubleSigns,
)
from tests.receivers import HttpReceiver, http_receiver
from tests.store.delivering_host import DeliveringHost, at
from tests.support import HandClock, Store, eventually


@pytest.fixture
def host(valkey: Database, clock: HandClock, tmp_path: Path) -> DeliveringHost:
    """Return a host that delivers."""
    return at(valkey, clock, tmp_path)


@pytest.fixture
def http() -> Iterator[HttpReceiver]:
    """Yield a web server that receives messages."""
    with http_receiver() as receiver:
        yield receiver


def watchdog(host: DeliveringHost, *, alerts: str = "local", ping_url: str = "") -> Watchdog:
    store, found = host.store, reporter(host, alerts=alerts)
    return Watchdog(
        store.database,
        reporter=found,
        broken=BrokenRecords(found, host.incidents, clock=store.clock),
        clock=store.clock,
        switch=SchedulerSwitch(ping_url, pinger=host.pinger) if ping_url else None,
    )


def reporter(host: DeliveringHost, *, alerts: str) -> TroubleReporter:
    return TroubleReporter(
        incidents=host.incidents,
        deliveries=host.deliveries,
        alerts=alerts,
        send_now=host.send_now,
    )


def push(host: DeliveringHost, queue: str) -> None:
    """Push a run to that Redis list."""
    store = host.store
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    run_id = Occurrence(job_id=job.id, due_ms=store.clock.ms).run_id
    store.runs.trigger(
        job.spec,
        [RequestedRun(run_id=run_id, message=b"m")],
        trigger=Trigger.MANUAL,
        now_ms=store.clock.ms,
        to=Destination(queue=queue),
        key=job.id,
    )


def worker_seen(store: Store) -> None:
    store.database.call("ZADD", store.database.keys.workers, store.clock.ms, "w@host")


def test_unreadable_messages_are_one_incident_that_ends_after_fifteen_quiet_minutes(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    letters, scan = Letters(host.store.database), watchdog(host, alerts=http.url)
    for _ in range(3):
        dead = letter(b"x", queue="q", why="it is junk", worker="w", at_ms=host.store.clock.ms)
        letters.bury(dead)
        report = scan.scan(host.store.clock.ms)
        assert report is not None
        assert report.are_there_letters
        host.rescue()
        host.work_off()
        host.store.clock.advance(20)
        worker_seen(host.store)
    (found,) = http.messages
    assert "could not read a message on queue 'q' (it is junk) → hermes-celery letters" in found
    (incident,) = host.incidents.open()
    assert (incident.kind, incident.count) == (TroubleKind.LETTERS, 1)
    host.store.clock.advance(900)
    worker_seen(host.store)
    report = scan.scan(host.store.clock.ms)
    assert report is not None
    assert not report.are_there_letters
    assert host.incidents.open() == []


def test_an_untaken_run_is_reported_after_its_grace_and_again_when_it_ran(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    host.job(http.url)
    run_id = host.store.cron.run("disks")
    scan = watchdog(host)
    for seconds in (100, 1000, 700):
        host.store.clock.advance(seconds)
        worker_seen(host.store)
        scan.scan(host.store.clock.ms)
        host.rescue()
        host.work_off()
    assert http.messages == []
    host.store.clock.advance(10)
    worker_seen(host.store)
    report = scan.scan(host.store.clock.ms)
    assert report is not None
    assert report.late == 1
    host.rescue()
    host.work_off()
    assert "⚠️ Cron 'disks' is late: no worker has taken it" in http.messages[0]
    for _ in range(3):
        host.store.clock.advance(10)
        worker_seen(host.store)
        scan.scan(host.store.clock.ms)
        host.rescue()
        host.work_off()
    assert len(http.messages) == 1
    claim = host.store.claim(run_id)
    outcome = Outcome(state=RunState.SUCCEEDED, output=b"at last")
    host.store.runs.finish(
        claim, outcome, now_ms=host.store.clock.ms,
        follow_up=RunAnnouncer(host.messages, pinger=host.pinger).follow_up(claim, outcome),
    )  # fmt: skip
    host.work_off()
    assert http.messages[1] == "at last"
    assert "works again; it was late once" in http.messages[2]


def test_a_retry_that_was_lost_with_its_worker_is_reported(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    job = host.job(http.url)
    store = host.store
    claim = store.claim(store.cron.run(job.id))
    now_ms = store.clock.ms
    store.runs.put_back(
        claim, ready_at_ms=now_ms + 4_000_000,
        handed_on=HandedOn(message=claim.run_id, hop=1, retry_at_ms=now_ms + 30_000),
    )  # fmt: skip
    scan = watchdog(host)
    for seconds, late in ((89, 0), (10, 1)):
        store.clock.advance(seconds)
        worker_seen(store)
        report = scan.scan(store.clock.ms)
        assert report is not None
        assert report.late == late
    (found,) = [one for one in host.incidents.open() if one.kind is TroubleKind.LATE]
    assert "no worker takes it, or the worker that had it is gone" in found.text


def test_the_watchdog_scans_at_most_every_ten_seconds(host: DeliveringHost) -> None:
    scan = watchdog(host)
    assert scan.scan(host.store.clock.ms) is not None
    assert scan.scan(host.store.clock.ms + 9_999) is None
    assert scan.scan(host.store.clock.ms + 10_000) is not None


def test_an_overdue_job_is_reported(host: DeliveringHost, http: HttpReceiver) -> None:
    job = host.job(http.url)
    host.store.clock.advance(3600 + 121)
    report = watchdog(host).scan(host.store.clock.ms)
    assert report is not None
    assert report.missed == 1
    host.rescue()
    host.work_off()
    assert http.messages == [
        f"⚠️ Cron 'disks' should have run and did not → hermes-celery show {job.id}"
    ]


def test_an_expired_run_is_reported(host: DeliveringHost, http: HttpReceiver) -> None:
    host.job(http.url)
    scan = watchdog(host)
    scan.scan(host.store.clock.ms)
    run_id = host.store.cron.run("disks")
    host.store.clock.advance(10)
    host.store.runs.expire(run_id, now_ms=host.store.clock.ms)
    report = scan.scan(host.store.clock.ms)
    assert report is not None
    assert report.missed == 1
    host.rescue()
    host.work_off()
    assert "did not run: expired" in http.messages[0]


def test_the_next_leader_reports_a_time_without_ticks(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    watchdog(host, alerts=http.url).scan(host.store.clock.ms)
    host.store.clock.advance(125)
    report = watchdog(host, alerts=http.url).scan(host.store.clock.ms)
    assert report is not None
    assert report.is_beat_back
    host.rescue()
    host.work_off()
    assert http.messages == [
        "⚠️ no beat has ticked for 2 min 5 s, since 12:00:00 UTC; a beat ticks again"
    ]
    assert host.incidents.open() == []


def test_a_missing_beat_is_reported_by_one_worker_at_once(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    host.job("local")
    watchdog(host).scan(host.store.clock.ms)
    signs = TroubleSigns(host.store.database)
    host.store.clock.advance(39)
    assert not watch_beat(signs, reporter(host, alerts=http.url), now_ms=host.store.clock.ms)
    host.store.clock.advance(1)
    for _ in range(3):
        assert watch_beat(signs, reporter(host, alerts=http.url), now_ms=host.store.clock.ms)
    assert len(http.messages) == 1
    assert "→ celery -A hermes_celery beat" in http.messages[0]
    watchdog(host, alerts=http.url).scan(host.store.clock.ms)
    host.rescue()
    host.work_off()
    assert http.messages[1:] == ["✅ a beat ticks again"]


def test_the_beat_itself_reports_runs_without_workers(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    host.job("local")
    host.store.cron.run("disks")
    scan = watchdog(host, alerts=http.url)
    for seconds in (0, 10, 19):
        host.store.clock.advance(seconds)
        scan.scan(host.store.clock.ms)
    assert http.messages == []
    host.store.clock.advance(11)
    report = scan.scan(host.store.clock.ms)
    assert report is not None
    assert report.are_workers_gone
    assert http.messages == [
        "⚠️ 1 run waits and there is no worker → celery -A hermes_celery worker"
    ]
    host.store.clock.advance(10)
    worker_seen(host.store)
    scan.scan(host.store.clock.ms)
    host.rescue()
    host.work_off()
    assert http.messages[1:] == ["✅ there are workers again"]


def test_runs_without_workers_are_counted_on_all_queues(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    # A queue's name is its key, so these names must be unique to this test.
    default = host.store.database.keys.default_queue
    gpu, reports = f"{default}-gpu", f"{default}-reports"
    push(host, reports)
    # Celery keeps messages of another priority on a list of their own.
    push(host, f"{gpu}\x06\x163")
    scan = watchdog(host, alerts=http.url)
    for _ in range(4):
        host.store.clock.advance(10)
        scan.scan(host.store.clock.ms)
    assert http.messages == [
        f"⚠️ 2 runs wait on queue '{gpu}', '{reports}' and there is no worker → "
        f"celery -A hermes_celery worker -Q {gpu},{reports}"
    ]


def test_runs_on_a_queue_of_foreign_workers_are_not_reported_as_without_workers(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    store = host.store
    queue = f"{store.database.keys.default_queue}-theirs"
    push(host, queue)
    scan = watchdog(host, alerts=http.url)
    for _ in range(4):
        store.clock.advance(10)
        theirs = ForeignQueue(name=queue, workers=["w@host"], seen_ms=store.clock.ms,
                              is_sure=True)  # fmt: skip
        ForeignQueues(store.database).write({queue: theirs})
        report = scan.scan(store.clock.ms)
        assert report is not None
        assert not report.are_workers_gone
    assert http.messages == []


def test_the_scheduler_pings_its_own_dead_man_switch_twice_a_minute(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    scan = watchdog(host, ping_url=f"http://{http.address}/beat")
    for _ in range(7):
        scan.scan(host.store.clock.ms)
        host.store.clock.advance(10)
    eventually(lambda: len(http.requests) == 2, what="two pings in a minute")
    assert [path for path, _ in http.requests] == ["/beat", "/beat"]


def test_an_incident_older_than_thirty_days_is_closed(host: DeliveringHost) -> None:
    old = Trouble(kind=TroubleKind.LATE, subject="x", text="t", job_id="x")
    host.incidents.report(old, now_ms=host.store.clock.ms)
    host.store.clock.ms += int(timedelta(days=31).total_seconds() * 1000)
    watchdog(host).scan(host.store.clock.ms)
    assert host.incidents.open() == []


@pytest.mark.parametrize("is_by_us", [True, False])
def test_the_incidents_of_a_job_end_when_it_is_removed(
    host: DeliveringHost, is_by_us: bool
) -> None:
    """The watchdog closes them when an older program or the trimming removed the job."""
    database, now_ms = host.store.database, host.store.clock.ms
    gone, kept = (host.store.cron.add(JobRequest(schedule="every 1h", prompt="x", name=name))
                  for name in ("gone", "kept"))  # fmt: skip
    for job in (gone, kept):
        for kind in (TroubleKind.FAILURE, TroubleKind.LATE):
            host.incidents.report(Trouble.of_job(job.spec, kind, "t"), now_ms=now_ms + 5)
    if is_by_us:
        host.store.cron.remove("gone")
        assert host.incidents.of_job(gone.id) == []
    else:
        database.call("DEL", database.keys.job(gone.id))
        watchdog(host).scan(now_ms)
        assert host.incidents.of_job(gone.id) == []
    assert len(host.incidents.of_job(kept.id)) == 2
    assert {one.job_id for one in host.incidents.open()} == {kept.id}


def test_an_incident_that_explains_why_a_job_is_gone_stays_open(host: DeliveringHost) -> None:
    now_ms = host.store.clock.ms
    moved = Trouble(kind=TroubleKind.BROKEN, subject="", text="moved", job_id="a" * 12)
    host.incidents.report(moved, now_ms=now_ms)
    watchdog(host).scan(now_ms)
    assert len(host.incidents.open()) == 1
