"""A delivery that hangs, dies or loses its server: counted, bounded, never sent twice."""

from __future__ import annotations

import hashlib
import threading
import time
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
from tests.receivers import HttpReceiver, http_receiver
from tests.store.delivering_host import Place, at
from tests.support import HandClock


class Died(BaseException):
    """The worker's process is gone."""


@pytest.fixture
def place(valkey: Database, clock: HandClock, tmp_path: Path) -> Place:
    """A machine that delivers."""
    return at(valkey, clock, tmp_path)


@pytest.fixture
def http() -> Iterator[HttpReceiver]:
    """A web server that gets messages."""
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What hangs goes on when this is set, at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


class DeadlyBook(AddressBook):
    """Whoever looks for attachments dies."""

    def attachments(self, text: str) -> ExtractedFiles:
        raise Died


def next_push(place: Place) -> None:
    """Go on to when the delivery is due, and push it."""
    ((_, due_ms),) = place.deliveries.due(place.store.clock.ms + 10**9, limit=9)
    place.store.clock.ms = max(due_ms, place.store.clock.ms)
    assert place.rescue() == 1


def test_a_delivery_that_kills_whoever_plans_it_is_given_up_and_told(
    place: Place, http: HttpReceiver
) -> None:
    place.book = DeadlyBook
    job = place.job(http.url)
    run = place.end(output="x")
    for _ in range(MAX_PLANNINGS):
        with pytest.raises(Died):
            place.work_off()
        next_push(place)
    assert place.work_off() == ["failed"]
    assert place.standing(run) is DeliveryState.FAILED
    shown = place.store.cron.show(job.id)
    assert shown.last_status == "delivery_failed"
    assert "begun 5 times and never planned" in (shown.last_delivery_error or "")
    (incident,) = place.incidents.of_job(job.id)
    assert incident.kind is TroubleKind.BROKEN
    assert run.id in incident.text
    assert place.deliveries.due(place.store.clock.ms + 10**9, limit=9) == []
    assert http.requests == []


def test_planning_that_hangs_holds_no_slot_and_is_given_up(
    place: Place, http: HttpReceiver, release: threading.Event
) -> None:
    class HangingBook(AddressBook):
        def attachments(self, text: str) -> ExtractedFiles:
            release.wait(60)
            return super().attachments(text)

    place.book, place.limits = HangingBook, {"prepare_seconds": 0.02}
    place.job(http.url)
    run = place.end(output="x")
    for _ in range(MAX_PLANNINGS):
        assert place.work_off() == ["overdue"]
        next_push(place)
    assert place.work_off() == ["failed"]
    assert place.standing(run) is DeliveryState.FAILED
    assert http.requests == []


class HangingChannels(Channels):
    """A far end that takes a piece and never comes back, for `release`."""

    release: threading.Event
    began = 0

    def way_to(self, target: Target) -> Any:
        outer = type(self)

        class Hanging:
            #: With its margin, what is waited for is a moment.
            seconds = -4.99

            def pieces(self, text: str) -> list[str]:
                return text.split()

            def send(self, piece: str, *, title: str, files: tuple[Path, ...]) -> None:
                outer.began += 1
                outer.release.wait(60)

        return Hanging()


def attempts(place: Place, run: Run) -> int:
    (part,) = place.deliveries.get(run.id).parts or ()
    return part.attempts


def test_sending_that_hangs_is_tried_again_and_then_given_up(
    place: Place, release: threading.Event
) -> None:
    class Hanging(HangingChannels):
        pass

    Hanging.release = release
    place.channels = Hanging
    place.job("telegram:1")
    run = place.end(output="one")
    assert place.work_off() == ["pending"]
    for _ in range(MAX_ATTEMPTS - 1):
        next_push(place)
        place.work_off()
    assert (place.standing(run), attempts(place, run)) == (DeliveryState.FAILED, MAX_ATTEMPTS)
    assert Hanging.began == MAX_ATTEMPTS
    assert "took longer than" in (place.store.cron.show("disks").last_delivery_error or "")


def test_a_part_that_kills_whoever_sends_it_is_given_up(place: Place, http: HttpReceiver) -> None:
    class Mortal(Deliveries):
        def done(self, *_: Any, **__: Any) -> str:
            raise Died

    place.job(http.url)
    run = place.end(output="x")
    whole, place.deliveries = place.deliveries, Mortal(place.store.database)
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(Died):
            place.work_off()
        next_push(place)
        assert place.work_off() == ["taken"]
        next_push(place)
    place.deliveries = whole
    assert place.work_off() == ["failed"]
    assert place.standing(run) is DeliveryState.FAILED
    assert len(http.requests) == MAX_ATTEMPTS


def test_a_result_waits_for_a_server_that_stands_still_and_nobody_sends_again(
    place: Place, http: HttpReceiver
) -> None:
    class Away(Deliveries):
        """The server takes no result for a minute."""

        times = 3

        def done(self, *given: Any, **named: Any) -> str:
            if Away.times:
                Away.times -= 1
                raise StoreUnavailable("timed out")
            return super().done(*given, **named)

    others: list[str] = []
    whole = place.deliveries

    def meanwhile(_: float) -> None:
        # It comes back, all claims have run out, and somebody else is there first.
        place.store.clock.advance(60 if Away.times == 2 else 1)
        mine, place.deliveries = place.deliveries, whole
        place.rescue()
        others.extend(place.work_off())
        place.deliveries = mine

    place.deliveries = Away(place.store.database)
    place.pause = meanwhile
    place.job(http.url)
    run = place.end(output="x")
    assert place.work_off() == ["delivered"]
    assert (others, Away.times) == (["taken"], 0)
    place.store.clock.advance(GRACE_MS / 1000)
    place.rescue()
    place.work_off()
    assert http.messages == ["x"]
    assert (place.standing(run), attempts(place, run)) == (DeliveryState.DELIVERED, 1)


def test_a_record_that_is_broken_is_told_and_stands_in_nobody_s_way(
    place: Place, http: HttpReceiver
) -> None:
    place.job(http.url)
    broken, sound = place.end(output="x"), place.end(output="y")
    place.store.database.call("DEL", place.messages.delivery_queue())
    key = place.store.database.keys.delivery(broken.id)
    place.store.database.call("DEL", key)
    place.store.database.call("SET", key, "no hash")
    place.store.clock.advance(60)
    assert place.rescue() == 1
    assert place.work_off() == ["delivered"]
    assert place.standing(sound) is DeliveryState.DELIVERED
    assert place.broken == [("", key, "is a string, which it must not be")]
    assert place.store.database.call("GET", key) == "no hash"
    # A worker that has its message tells of it too.
    assert place.deliverer().deliver(broken.id) == "broken"
    (incident,) = place.incidents.open()
    assert (incident.kind, broken.id in incident.text) == (TroubleKind.BROKEN, True)
    # It is looked at again, an hour later, and still harms nobody.
    assert place.rescue() == 0


def to_many_paths(place: Place, http: HttpReceiver, count: int) -> list[Run]:
    """Runs whose outputs go to one web server, each to a path of its own."""
    runs = []
    for number in range(count):
        request = JobRequest(schedule="every 1h", script="s.sh", no_agent=True, name=f"j{number}",
                             deliver=f"{http.url}/{number}")  # fmt: skip
        place.store.cron.add(request)
        run_id = place.store.cron.run(f"j{number}")
        claim = place.store.claim(run_id)
        outcome = Outcome(state=RunState.SUCCEEDED, output=b"x")
        follow_up = RunAnnouncer(place.messages, pinger=place.pinger).follow_up(claim, outcome)
        place.store.runs.finish(claim, outcome, now_ms=place.store.clock.ms, follow_up=follow_up)
        runs.append(place.store.runs.get(run_id))
    return runs


def test_a_far_end_that_is_silent_is_asked_by_one_delivery_at_a_time(
    place: Place, http: HttpReceiver
) -> None:
    http.answers = [None] * 100
    runs = to_many_paths(place, http, 12)
    began = time.monotonic()
    assert place.work_off() == ["pending"] * 12
    assert len(http.requests) == 1
    assert time.monotonic() - began < 5, "the others do not wait for it"
    place.store.clock.advance(10)
    place.rescue()
    assert place.work_off() == ["pending"] * 12
    assert len(http.requests) == 2
    states = [(place.deliveries.get(run.id).parts or ())[0] for run in runs]
    assert {state.attempts for state in states} == {2}, "its attempts end as they always did"
    assert sum("did not answer lately" in (state.error or "") for state in states) == 11
    http.answers = []
    place.store.clock.advance(20)
    place.rescue()
    assert place.work_off() == ["delivered"] * 12
    assert len(http.requests) == 14


def test_a_far_end_that_stays_silent_is_given_up_when_it_always_was(
    place: Place, http: HttpReceiver
) -> None:
    http.answers = [None] * 100
    runs = to_many_paths(place, http, 3)
    place.work_off()
    for _ in range(MAX_ATTEMPTS - 1):
        due = place.deliveries.due(place.store.clock.ms + 10**9, limit=9)
        place.store.clock.ms = max(at for _, at in due)
        place.rescue()
        place.work_off()
    assert {place.standing(run) for run in runs} == {DeliveryState.FAILED}
    for job in place.store.jobs.all():
        assert job.last_status == "delivery_failed"


def test_a_silent_far_end_holds_up_no_other(place: Place, http: HttpReceiver) -> None:
    http.answers = [None] * 9
    with http_receiver() as other:
        to_many_paths(place, http, 2)
        place.job(other.url)
        place.end(output="x")
        assert sorted(place.work_off()) == ["delivered", "pending", "pending"]
        assert len(other.requests) == 1


def test_a_far_end_that_refuses_is_asked_by_all(place: Place, http: HttpReceiver) -> None:
    http.answers = [500] * 9
    to_many_paths(place, http, 3)
    assert place.work_off() == ["pending"] * 3
    assert len(http.requests) == 3


@pytest.mark.parametrize("value", [("SET", "x"), ("HSET", "fails", "x", "until_ms", "y")])
def test_a_broken_memory_of_a_far_end_lets_everybody_try(
    place: Place, http: HttpReceiver, value: tuple[str, ...]
) -> None:
    far_end = Target(url=http.url).far_end
    digest = hashlib.sha256(far_end.encode()).hexdigest()[:16]
    command, *rest = value
    place.store.database.call(command, place.store.database.keys.breaker(digest), *rest)
    to_many_paths(place, http, 1)
    assert place.work_off() == ["delivered"]


def test_the_waits_for_a_far_end_grow_to_a_minute(valkey: Database) -> None:
    breakers = Breakers(valkey)
    waits = []
    for _ in range(6):
        breakers.timed_out("there", now_ms=0)
        waits.append(breakers.wait_ms("there", now_ms=0, attempt_ms=1000))
    assert waits == [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]
    assert breakers.wait_ms("there", now_ms=60_000, attempt_ms=1000) == 0
    assert breakers.wait_ms("there", now_ms=60_000, attempt_ms=1000) == 1000, "one at a time"
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
def test_a_far_end_is_what_answers_there(target: Target, far_end: str) -> None:
    assert target.far_end == far_end


class AwayAfterSending(Breakers):
    """The server is gone when it is to be noted how it went."""

    def answered(self, far_end: str, *, now_ms: int) -> None:
        raise StoreUnavailable("away")


def test_a_memory_that_cannot_be_written_loses_no_result(place: Place, http: HttpReceiver) -> None:
    """What was sent is on record first, and is not sent again."""
    place.breakers = AwayAfterSending
    (run,) = to_many_paths(place, http, 1)
    assert place.work_off() == ["delivered"]
    assert place.standing(run) is DeliveryState.DELIVERED
