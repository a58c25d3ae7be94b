"""Tests that overload is reported once, with what to do, and that its end is reported."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from hermes_celery.core.incidents import TroubleKind
from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import Trigger, run_id_of
from hermes_celery.delivering.overload import OverloadWatch
from hermes_celery.delivering.trouble_reporter import TroubleReporter
from hermes_celery.store import (
    Database,
    Destination,
    ForeignQueue,
    ForeignQueues,
    QueueLoad,
    RequestedRun,
    WorkerSign,
)
from tests.store.delivering_host import DeliveringHost, at
from tests.support import HandClock

GB = 2**30


@pytest.fixture
def host(valkey: Database, clock: HandClock, tmp_path: Path) -> DeliveringHost:
    """Return a host that delivers."""
    return at(valkey, clock, tmp_path)


@pytest.fixture
def overload(host: DeliveringHost) -> OverloadWatch:
    """Return the leader's overload watch before its first scan."""
    reporter = TroubleReporter(incidents=host.incidents, deliveries=host.deliveries, alerts="local")
    return OverloadWatch(
        host.store.database, incidents=host.incidents, reporter=reporter, home=host.home
    )


def worker_says(
    host: DeliveringHost, /, *, queues: tuple[str, ...], asked_before_ms: int = 0, **fields: object
) -> None:
    now = host.store.clock.ms
    sign = WorkerSign(
        seen_ms=now,
        queues={queue: now - asked_before_ms for queue in queues},
        **fields,  # type: ignore[arg-type]
    )
    QueueLoad(host.store.database).say("w@host", sign, taken={}, now_ms=now)


def scans(
    host: DeliveringHost, overload: OverloadWatch, times: int, /, **worker: object
) -> list[str]:
    """Scan every ten seconds beside a living worker; return the texts of open incidents."""
    for _ in range(times):
        host.store.clock.advance(10)
        worker_says(host, **worker)  # type: ignore[arg-type]
        overload.scan(host.store.clock.ms)
    return texts(host)


def texts(host: DeliveringHost) -> list[str]:
    return [incident.text for incident in host.incidents.of_job("")]


def push(host: DeliveringHost, queue: str) -> None:
    """Push a run to that queue, where it waits from now on."""
    store = host.store
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    store.runs.trigger(
        job.spec,
        [RequestedRun(run_id=run_id_of(job.id, store.clock.ms), message=f"m {job.id}".encode())],
        trigger=Trigger.MANUAL,
        now_ms=store.clock.ms,
        to=Destination(queue=queue),
        key=job.id,
    )


def test_a_queue_without_a_consumer_is_an_incident_until_its_runs_are_taken(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    default = host.store.database.keys.default_queue
    gpu = f"{default}-gpu"
    push(host, gpu)
    assert scans(host, overload, 3, queues=(default,)) == []
    (text,) = scans(host, overload, 1, queues=(default,))
    assert f"1 message waits on queue '{gpu}' and no worker consumes it" in text
    assert f"worker -Q {gpu}" in text
    # The incident stays open while the run waits.
    assert scans(host, overload, 10, queues=(default,)) == [text]
    host.store.database.call("RPOP", gpu)
    assert scans(host, overload, 1, queues=(default, gpu)) == []


def test_an_alert_about_untaken_deliveries_is_sent_by_the_leader_itself(
    host: DeliveringHost,
) -> None:
    sent: list[str] = []
    reporter = TroubleReporter(
        incidents=host.incidents,
        deliveries=host.deliveries,
        alerts="telegram:1",
        send_now=sent.append,
    )
    overload = OverloadWatch(host.store.database, incidents=host.incidents, reporter=reporter,
                        home=host.home)  # fmt: skip
    push(host, "gpu")
    scans(host, overload, 4, queues=("x",))
    assert sent == []
    push(host, host.store.database.keys.delivery_queue)
    scans(host, overload, 4, queues=("x",))
    (notice,) = sent
    assert host.deliveries.get(notice) is not None


def test_a_new_leader_does_not_close_an_incident_that_it_has_not_watched(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    push(host, "gpu")
    reported = scans(host, overload, 4, queues=("x",))
    assert len(reported) == 1
    host.store.clock.advance(100)
    assert scans(host, overload, 2, queues=("x",)) == reported


def test_no_queue_is_reported_beside_a_worker_that_does_not_report_its_queues(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    push(host, "gpu")
    database, clock = host.store.database, host.store.clock
    for _ in range(6):
        clock.advance(10)
        database.call("ZADD", database.keys.workers, clock.ms, "old@host")
        overload.scan(clock.ms)
    assert texts(host) == []


@pytest.mark.parametrize(
    ("worker", "words"),
    [
        ({"asked_before_ms": 60_000}, "w@host asks for no messages"),
        ({"asked_before_ms": 0}, "although w@host asks for them"),
        ({"asked_before_ms": 0, "is_full": True}, None),
    ],
)
def test_a_queue_whose_workers_take_nothing_is_reported_unless_they_are_full(
    host: DeliveringHost, overload: OverloadWatch, worker: dict[str, object], words: str | None
) -> None:
    push(host, "q")
    reported = scans(host, overload, 5, queues=("q",), **worker)
    assert [words in text for text in reported if words] == ([] if words is None else [True])


def test_a_queue_that_is_being_emptied_is_not_reported(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    """A worker without our hooks takes the messages and reports nothing."""
    for _ in range(8):
        push(host, "theirs")
    for _ in range(6):
        host.store.database.call("RPOP", "theirs")
        assert scans(host, overload, 1, queues=("other",)) == []


def test_a_queue_that_grows_for_a_minute_is_an_incident_until_it_shrinks(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    queue = host.store.database.keys.default_queue
    push(host, queue)
    for number in range(6):
        host.store.database.call("LPUSH", queue, *(f"{number} {n}" for n in range(4)))
        host.store.database.call("RPOP", queue)
        assert scans(host, overload, 1, queues=(queue,)) == []
    host.store.database.call("LPUSH", queue, *(f"more {n}" for n in range(4)))
    host.store.database.call("RPOP", queue)
    (text,) = scans(host, overload, 1, queues=(queue,))
    assert f"queue '{queue}' grew from 4 to 22 messages in 60 s" in text
    assert "raise HERMES_CRON_MAX_WORKERS" in text
    for _ in range(10):
        host.store.database.call("RPOP", queue)
        left = scans(host, overload, 1, queues=(queue,))
    assert left == []


def test_a_burst_that_shrinks_again_is_not_a_backlog(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    queue = host.store.database.keys.default_queue
    push(host, queue)
    for minute in range(3):
        host.store.database.call("LPUSH", queue, *(f"{minute} {n}" for n in range(60)))
        for _ in range(6):
            host.store.database.call("RPOP", queue, 11)
            assert scans(host, overload, 1, queues=(queue,)) == []


def test_a_run_that_waits_for_five_minutes_is_reported(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    queue = host.store.database.keys.default_queue
    push(host, queue)
    busy = {"queues": (queue,), "is_full": True}
    assert scans(host, overload, 29, **busy) == []
    (text,) = scans(host, overload, 1, **busy)
    assert f"a run waits 300 s on queue '{queue}'" in text


def recorded(host: DeliveringHost, job_id: str, number: int, *, reason: str = "") -> None:
    """Record an occurrence that ran, or was skipped for a reason."""
    database = host.store.database
    run_id = run_id_of(job_id, host.store.clock.ms + number)
    state = "skipped" if reason else "succeeded"
    database.call("HSET", database.keys.run(run_id), "state", state, "reason", reason,
                  "job_name", f"job {job_id[:2]}")  # fmt: skip
    database.call("ZADD", database.keys.runs, host.store.clock.ms, run_id)


def test_a_job_that_loses_most_of_its_occurrences_to_overlap_is_reported(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    bad, fair, missed = "aa" * 6, "bb" * 6, "cc" * 6
    for number in range(9):
        recorded(host, bad, number, reason="overlap: an earlier run still runs" * (number < 6))
        recorded(host, fair, number, reason="overlap: an earlier run still runs" * (number < 4))
        recorded(host, missed, number, reason="missed")
    (text,) = scans(host, overload, 1, queues=())
    assert text.startswith("Cron 'job aa' lost 6 of its last 9 occurrences")
    assert f"hermes-celery edit {bad} --overlap allow" in text
    assert [i.kind for i in host.incidents.of_job("")] == [TroubleKind.OVERLAP]
    for number in range(20, 24):
        recorded(host, bad, number)
    assert scans(host, overload, 9, queues=()) == []


@pytest.mark.parametrize("is_claimed", [False, True])
def test_the_advice_is_to_start_a_worker_when_the_earlier_run_was_never_taken(
    host: DeliveringHost, overload: OverloadWatch, is_claimed: bool
) -> None:
    request = JobRequest(schedule="every 1h", prompt="x", name="slow", queue="gpu")
    job = host.store.cron.add(request)
    run_id = host.store.cron.run(job.id)
    host.store.database.call("HSET", host.store.database.keys.run(run_id), "queue", "gpu")
    if is_claimed:
        host.store.claim(run_id)
    for number in range(9):
        recorded(host, job.id, number, reason="overlap: an earlier run still runs")
    text = next(text for text in scans(host, overload, 1, queues=("gpu",)) if "lost 9" in text)
    if is_claimed:
        assert f"hermes-celery edit {job.id} --overlap allow" in text
    else:
        assert "an earlier run still waits on queue 'gpu' → start a worker that consumes it" in text


def test_the_advice_names_an_earlier_run_that_was_handed_on(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    job = host.store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="chained"))
    run_id = host.store.cron.run(job.id)
    host.store.database.call("HSET", host.store.database.keys.run(run_id), "handed_on", "m1")
    for number in range(9):
        recorded(host, job.id, number, reason="overlap: an earlier run still runs")
    text = next(text for text in scans(host, overload, 1, queues=()) if "lost 9" in text)
    assert "was handed on by its task" in text
    assert f"hermes-celery cancel {run_id} lets the job go on" in text


def test_four_lost_occurrences_are_too_few_to_report(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    for number in range(4):
        recorded(host, "aa" * 6, number, reason="overlap: an earlier run still runs")
    assert scans(host, overload, 1, queues=()) == []


def test_a_server_near_its_maxmemory_is_an_incident_until_it_has_room(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    database = host.store.database
    used, _ = QueueLoad(database).memory()
    try:
        database.call("CONFIG", "SET", "maxmemory", int(used / 0.95))
        (text,) = scans(host, overload, 1, queues=())
        assert "that it may use" in text
        assert "raise maxmemory" in text
        database.call("CONFIG", "SET", "maxmemory", used * 2)
        assert scans(host, overload, 1, queues=()) == []
    finally:
        database.call("CONFIG", "SET", "maxmemory", 0)


@pytest.mark.parametrize(
    ("free", "total", "is_full"),
    [
        (99 * 2**20, GB, True),
        (99 * 2**20, 20 * GB, True),
        (101 * 2**20, GB, False),
        (4 * GB, 100 * GB, True),
        (6 * GB, 100 * GB, False),
        (11 * GB, 4000 * GB, False),
        (0, 0, False),
    ],
)
def test_a_nearly_full_disk_of_a_worker_is_reported(
    host: DeliveringHost, overload: OverloadWatch, free: int, total: int, is_full: bool
) -> None:
    disk = {"host": "far", "disk_free": free, "disk_total": total}
    reported = scans(host, overload, 1, queues=(), **disk)
    assert ["the disk of the Hermes home on far" in text for text in reported] == [True] * is_full
    assert scans(host, overload, 1, queues=(), host="far", disk_free=GB, disk_total=GB) == []


def test_the_disk_of_the_leaders_host_is_checked_too(
    host: DeliveringHost, overload: OverloadWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage(host.home))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(GB, GB, 0))
    (text,) = scans(host, overload, 1, queues=())
    assert f"on {socket.gethostname()} has 0 MB free of 1 GB" in text


def test_broken_records_are_ignored(host: DeliveringHost, overload: OverloadWatch) -> None:
    database = host.store.database
    push(host, "gpu")
    database.call("HSET", database.keys.consumers, "broken@host", "{not json")
    database.call("SADD", database.keys.queues, database.keys.consumers)
    for run_id in database.call("ZRANGE", database.keys.queued, 0, -1):
        database.call("DEL", database.keys.run(run_id))
        database.call("SET", database.keys.run(run_id), "x")
    (text,) = scans(host, overload, 4, queues=("x",))
    assert "no worker consumes it" in text


def test_workers_that_are_long_gone_are_forgotten(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    worker_says(host, queues=("q",))
    host.store.clock.advance(3601)
    overload.scan(host.store.clock.ms)
    assert QueueLoad(host.store.database).signs() == {}


def test_a_burst_after_a_longer_one_was_worked_off_is_not_a_backlog(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    queue = host.store.database.keys.default_queue
    push(host, queue)
    host.store.database.call("LPUSH", queue, *(f"first {n}" for n in range(40)))
    for _ in range(6):
        assert scans(host, overload, 1, queues=(queue,)) == []
        host.store.database.call("RPOP", queue, 6)
    host.store.database.call("LPUSH", queue, *(f"second {n}" for n in range(60)))
    assert scans(host, overload, 2, queues=(queue,)) == []


def test_the_latest_time_of_taking_a_message_is_kept(host: DeliveringHost) -> None:
    load, now = QueueLoad(host.store.database), host.store.clock.ms
    sign = WorkerSign(seen_ms=now, queues={"q": now})
    for taken_ms in (now - 5, now - 1, now - 9):
        load.say("w@host", sign, taken={"q": taken_ms}, now_ms=now)
    assert load.taken() == {"q": now - 1}


def test_the_incident_of_a_full_disk_stays_open_when_its_worker_is_gone(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    reported = scans(host, overload, 1, queues=(), host="far", disk_free=1, disk_total=GB)
    assert len(reported) == 1
    host.store.clock.advance(20)
    overload.scan(host.store.clock.ms)
    assert texts(host) == reported


def test_consumers_that_do_not_report_are_one_incident_until_they_are_forgotten(
    host: DeliveringHost, overload: OverloadWatch
) -> None:
    clock = host.store.clock
    stored = ForeignQueues(host.store.database)
    stored.write({"svc": ForeignQueue(name="svc", workers=["svc@host"], seen_ms=clock.ms)})
    for _ in range(12):
        overload.scan(clock.ms)
        clock.advance(10)
    (incident,) = host.incidents.of_job("")
    assert (incident.id, incident.count) == ("unfollowed-svc", 1)
    stored.forget(["svc"])
    assert overload.scan(clock.ms).over == ["unfollowed-svc"]
