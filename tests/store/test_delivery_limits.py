"""Tests of deliveries that hang, die or lose their server: counted, limited, not sent twice."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hermes_celery.core.incidents import TroubleKind
from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import DeliveryState, Outcome, Run, RunState
from hermes_celery.core.targets import Target
from hermes_celery.delivering.address_book import AddressBook
from hermes_celery.delivering.attachments import ExtractedFiles
from hermes_celery.delivering.channels import Channels
from hermes_celery.delivering.deliverer import MAX_ATTEMPTS
from hermes_celery.delivering.outbox import RunAnnouncer
from hermes_celery.errors import StoreUnavailable
from hermes_celery.store import Breakers, Database, Deliveries
from hermes_celery.store.deliveries import GRACE_MS, MAX_PLANNINGS
from tests.pace import own_seconds
from tests.receivers import HttpReceiver, http_receiver
from tests.store.delivering_host import DeliveringHost, at
from tests.support import HandClock


class Died(BaseException):
    """Raised in place of the death of the worker's process."""


@pytest.fixture
def host(valkey: Database, clock: HandClock, tmp_path: Path) -> DeliveringHost:
    """Return a host that delivers."""
    return at(valkey, clock, tmp_path)


@pytest.fixture
def http() -> Iterator[HttpReceiver]:
    """Yield a web server that receives messages."""
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Yield an event that releases hanging calls; it is set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


class DeadlyBook(AddressBook):
    """An address book that dies when it looks for attachments."""

    def attachments(self, text: str) -> ExtractedFiles:
        raise Died


def next_push(host: DeliveringHost) -> None:
    """Set the clock to when the delivery is due, and push it."""
    ((_, due_ms),) = host.deliveries.due(host.store.clock.ms + 10**9, limit=9)
    host.store.clock.ms = max(due_ms, host.store.clock.ms)
    assert host.rescue() == 1


def test_a_delivery_that_kills_its_planning_workers_is_given_up_and_makes_an_incident(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    host.book = DeadlyBook
    job = host.job(http.url)
    run = host.end(output="x")
    for _ in range(MAX_PLANNINGS):
        with pytest.raises(Died):
            host.work_off()
        next_push(host)
    assert host.work_off() == ["failed"]
    assert host.standing(run) is DeliveryState.FAILED
    shown = host.store.cron.show(job.id)
    assert shown.last_status == "delivery_failed"
    assert "begun 5 times and never planned" in (shown.last_delivery_error or "")
    (incident,) = host.incidents.of_job(job.id)
    assert incident.kind is TroubleKind.BROKEN
    assert run.id in incident.text
    assert host.deliveries.due(host.store.clock.ms + 10**9, limit=9) == []
    assert http.requests == []


def test_a_hanging_planning_frees_its_worker_and_is_given_up(
    host: DeliveringHost, http: HttpReceiver, release: threading.Event
) -> None:
    class HangingBook(AddressBook):
        def attachments(self, text: str) -> ExtractedFiles:
            release.wait(60)
            return super().attachments(text)

    host.book, host.limits = HangingBook, {"prepare_seconds": 0.02}
    host.job(http.url)
    run = host.end(output="x")
    for _ in range(MAX_PLANNINGS):
        assert host.work_off() == ["overdue"]
        next_push(host)
    assert host.work_off() == ["failed"]
    assert host.standing(run) is DeliveryState.FAILED
    assert http.requests == []


class HangingChannels(Channels):
    """Channels that take a piece and do not return until `release`."""

    release: threading.Event
    began = 0

    def way_to(self, target: Target) -> Any:
        outer = type(self)

        class Hanging:
            #: With the deliverer's margin added, the limit is a moment.
            seconds = -4.99

            def pieces(self, text: str) -> list[str]:
                return text.split()

            def send(self, piece: str, *, title: str, files: tuple[Path, ...]) -> None:
                outer.began += 1
                outer.release.wait(60)

        return Hanging()


def attempts(host: DeliveringHost, run: Run) -> int:
    (part,) = host.deliveries.get(run.id).parts or ()
    return part.attempts


def test_a_hanging_send_is_tried_again_and_then_given_up(
    host: DeliveringHost, release: threading.Event
) -> None:
    class Hanging(HangingChannels):
        pass

    Hanging.release = release
    host.channels = Hanging
    host.job("telegram:1")
    run = host.end(output="one")
    assert host.work_off() == ["pending"]
    for _ in range(MAX_ATTEMPTS - 1):
        next_push(host)
        host.work_off()
    assert (host.standing(run), attempts(host, run)) == (DeliveryState.FAILED, MAX_ATTEMPTS)
    assert Hanging.began == MAX_ATTEMPTS
    assert "took longer than" in (host.store.cron.show("disks").last_delivery_error or "")


def test_a_part_that_kills_its_senders_is_given_up(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    class Mortal(Deliveries):
        def done(self, *_: Any, **__: Any) -> str:
            raise Died

    host.job(http.url)
    run = host.end(output="x")
    whole, host.deliveries = host.deliveries, Mortal(host.store.database)
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(Died):
            host.work_off()
        next_push(host)
        assert host.work_off() == ["taken"]
        next_push(host)
    host.deliveries = whole
    assert host.work_off() == ["failed"]
    assert host.standing(run) is DeliveryState.FAILED
    assert len(http.requests) == MAX_ATTEMPTS


def test_a_result_is_kept_until_the_server_answers_and_nothing_is_sent_twice(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    class Away(Deliveries):
        """A server that accepts no result for a minute."""

        times = 3

        def done(self, *given: Any, **named: Any) -> str:
            if Away.times:
                Away.times -= 1
                raise StoreUnavailable("timed out")
            return super().done(*given, **named)

    others: list[str] = []
    whole = host.deliveries

    def meanwhile(_: float) -> None:
        # The server is back, all claims have expired, and another worker reaches it first.
        host.store.clock.advance(60 if Away.times == 2 else 1)
        mine, host.deliveries = host.deliveries, whole
        host.rescue()
        others.extend(host.work_off())
        host.deliveries = mine

    host.deliveries = Away(host.store.database)
    host.pause = meanwhile
    host.job(http.url)
    run = host.end(output="x")
    assert host.work_off() == ["delivered"]
    assert (others, Away.times) == (["taken"], 0)
    host.store.clock.advance(GRACE_MS / 1000)
    host.rescue()
    host.work_off()
    assert http.messages == ["x"]
    assert (host.standing(run), attempts(host, run)) == (DeliveryState.DELIVERED, 1)


def test_a_broken_delivery_is_reported_and_does_not_block_others(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    host.job(http.url)
    broken, sound = host.end(output="x"), host.end(output="y")
    host.store.database.call("DEL", host.messages.delivery_queue())
    key = host.store.database.keys.delivery(broken.id)
    host.store.database.call("DEL", key)
    host.store.database.call("SET", key, "no hash")
    host.store.clock.advance(60)
    assert host.rescue() == 1
    assert host.work_off() == ["delivered"]
    assert host.standing(sound) is DeliveryState.DELIVERED
    assert host.broken == [("", key, "has the wrong type: string")]
    assert host.store.database.call("GET", key) == "no hash"
    # A worker that takes its message reports it too.
    assert host.deliverer().deliver(broken.id) == "broken"
    (incident,) = host.incidents.open()
    assert (incident.kind, broken.id in incident.text) == (TroubleKind.BROKEN, True)
    # It is due again after an hour, and not before.
    assert host.rescue() == 0


def to_many_paths(host: DeliveringHost, http: HttpReceiver, count: int) -> list[Run]:
    """Return runs with outputs for one web server, each to a path of its own."""
    runs = []
    for number in range(count):
        request = JobRequest(schedule="every 1h", script="s.sh", no_agent=True, name=f"j{number}",
                             deliver=f"{http.url}/{number}")  # fmt: skip
        host.store.cron.add(request)
        run_id = host.store.cron.run(f"j{number}")
        claim = host.store.claim(run_id)
        outcome = Outcome(state=RunState.SUCCEEDED, output=b"x")
        follow_up = RunAnnouncer(host.messages, pinger=host.pinger).follow_up(claim, outcome)
        host.store.runs.finish(claim, outcome, now_ms=host.store.clock.ms, follow_up=follow_up)
        runs.append(host.store.runs.get(run_id))
    return runs


def test_a_silent_server_is_tried_by_one_delivery_at_a_time(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    http.answers = [None] * 100
    runs = to_many_paths(host, http, 12)
    began = own_seconds()
    assert host.work_off() == ["pending"] * 12
    assert len(http.requests) == 1
    assert own_seconds() - began < 5, "the other deliveries must not wait for the silent server"
    host.store.clock.advance(10)
    host.rescue()
    assert host.work_off() == ["pending"] * 12
    assert len(http.requests) == 2
    states = [(host.deliveries.get(run.id).parts or ())[0] for run in runs]
    assert {state.attempts for state in states} == {2}, "skipped attempts must count too"
    assert sum("did not answer lately" in (state.error or "") for state in states) == 11
    http.answers = []
    host.store.clock.advance(20)
    host.rescue()
    assert host.work_off() == ["delivered"] * 12
    assert len(http.requests) == 14


def test_a_server_that_stays_silent_is_given_up_after_the_usual_attempts(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    http.answers = [None] * 100
    runs = to_many_paths(host, http, 3)
    host.work_off()
    for _ in range(MAX_ATTEMPTS - 1):
        due = host.deliveries.due(host.store.clock.ms + 10**9, limit=9)
        host.store.clock.ms = max(at for _, at in due)
        host.rescue()
        host.work_off()
    assert {host.standing(run) for run in runs} == {DeliveryState.FAILED}
    for job in host.store.jobs.all():
        assert job.last_status == "delivery_failed"


def test_a_silent_server_does_not_delay_other_servers(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    http.answers = [None] * 9
    with http_receiver() as other:
        to_many_paths(host, http, 2)
        host.job(other.url)
        host.end(output="x")
        assert sorted(host.work_off()) == ["delivered", "pending", "pending"]
        assert len(other.requests) == 1


def test_a_server_that_refuses_is_tried_by_all_deliveries(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    http.answers = [500] * 9
    to_many_paths(host, http, 3)
    assert host.work_off() == ["pending"] * 3
    assert len(http.requests) == 3


@pytest.mark.parametrize("value", [("SET", "x"), ("HSET", "fails", "x", "until_ms", "y")])
def test_a_broken_breaker_record_lets_every_delivery_try(
    host: DeliveringHost, http: HttpReceiver, value: tuple[str, ...]
) -> None:
    far_end = Target(url=http.url).far_end
    digest = hashlib.sha256(far_end.encode()).hexdigest()[:16]
    command, *rest = value
    host.store.database.call(command, host.store.database.keys.breaker(digest), *rest)
    to_many_paths(host, http, 1)
    assert host.work_off() == ["delivered"]


def test_the_waits_of_a_breaker_grow_to_a_minute(valkey: Database) -> None:
    breakers = Breakers(valkey)
    waits = []
    for _ in range(6):
        breakers.timed_out("there", now_ms=0)
        waits.append(breakers.wait_ms("there", now_ms=0, attempt_ms=1000))
    assert waits == [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]
    assert breakers.wait_ms("there", now_ms=60_000, attempt_ms=1000) == 0
    assert breakers.wait_ms("there", now_ms=60_000, attempt_ms=1000) == 1000, (
        "one attempt at a time"
    )
    assert breakers.wait_ms("elsewhere", now_ms=60_000, attempt_ms=1000) == 0
    breakers.answered("there", now_ms=60_500)
    assert breakers.wait_ms("there", now_ms=60_500, attempt_ms=1000) == 0


@pytest.mark.parametrize(
    ("target", "far_end"),
    [
        (Target(url="json://User:pw@Host.example:8080/path?x=1"), "json://host.example:8080"),
        (Target(url="mailto://u:p@mail.example?to=x"), "mailto://mail.example"),
        (Target(platform="Telegram", chat_id="1"), "platform telegram"),
        (Target(name="ops"), "name ops"),
    ],
)
def test_a_far_end_is_named_by_host_platform_or_name_without_credentials(
    target: Target, far_end: str
) -> None:
    assert target.far_end == far_end


class AwayAfterSending(Breakers):
    """Breakers whose server is gone when a result is noted."""

    def answered(self, far_end: str, *, now_ms: int) -> None:
        raise StoreUnavailable("away")


def test_a_breaker_that_cannot_be_written_loses_no_result(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    """The delivery is recorded before the breaker, and is not sent again."""
    host.breakers = AwayAfterSending
    (run,) = to_many_paths(host, http, 1)
    assert host.work_off() == ["delivered"]
    assert host.standing(run) is DeliveryState.DELIVERED
