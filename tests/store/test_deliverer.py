"""From a run's end to real receivers: what arrives, what is tried again, what is told."""

from __future__ import annotations

import logging
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hermes_celery.core.run import DeliveryState, RunState
from hermes_celery.core.targets import Target
from hermes_celery.delivering.address_book import AddressBook
from hermes_celery.delivering.attachments import ExtractedFiles
from hermes_celery.delivering.channels import Channels
from hermes_celery.delivering.deliverer import MAX_ATTEMPTS
from hermes_celery.delivering.outbox import redeliver
from hermes_celery.errors import DeliveryFault, DeliveryRefused, JobError
from hermes_celery.store import Database, Deliveries
from hermes_celery.store.deliveries import GRACE_MS
from tests.receivers import HttpReceiver, SmtpReceiver, http_receiver, smtp_receiver
from tests.store.delivering_host import Place, at
from tests.support import HandClock, cases, eventually


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
def smtp() -> Iterator[SmtpReceiver]:
    """A mail server that gets messages."""
    with smtp_receiver() as receiver:
        yield receiver


def test_output_reaches_every_target_in_hermes_wrapping(
    place: Place, http: HttpReceiver, smtp: SmtpReceiver
) -> None:
    place.targets_toml.write_text(f'ops = "{http.url}"')
    place.wrap = True
    place.job(f"ops,{smtp.url},file://reports/daily.md")
    run = place.end(output="all is well\n")
    assert place.work_off() == ["delivered"]
    assert place.standing(run) is DeliveryState.DELIVERED
    (message,) = http.messages
    assert message.startswith("Cronjob Response: disks\n(job_id: ")
    assert "all is well" in message
    (mail,) = smtp.mails
    assert "disks" in mail["Subject"]
    assert "all is well" in str(mail.get_body(("plain", "html")))
    assert "all is well" in (place.home / "output" / "reports" / "daily.md").read_text()


def test_silence_delivers_nothing_at_all(place: Place, http: HttpReceiver) -> None:
    place.job(http.url)
    silent = place.end(output="[SILENT]")
    empty = place.end(output="", silent=True)
    assert place.work_off() == []
    assert (place.standing(silent), place.standing(empty)) == (
        DeliveryState.SILENT,
        DeliveryState.SILENT,
    )
    assert http.requests == []


@pytest.mark.parametrize("status", [500, 502, 429, 404])
def test_a_target_that_refuses_is_tried_again_later_and_the_job_never(
    place: Place, http: HttpReceiver, status: int
) -> None:
    http.answers = [status]
    job = place.job(http.url)
    run = place.end(output="x")
    assert place.work_off() == ["pending"]
    (part,) = place.deliveries.get(run.id).parts or ()
    assert part.error is not None
    assert str(status) in part.error
    assert part.error.startswith("delivery error: ")
    assert "secret-token" not in part.error
    assert place.store.cron.show(job.id).last_delivery_error == part.error
    wait = 40 if status == 429 else 10
    place.store.clock.advance(wait - 1)
    assert place.rescue() == 0
    place.store.clock.advance(1)
    assert place.rescue() == 1
    assert place.work_off() == ["delivered"]
    assert len(http.requests) == 2
    assert place.store.cron.show(job.id).last_delivery_error is None
    assert [r.id for r in place.store.cron.latest_runs()] == [run.id]


def test_a_target_that_never_answers_is_given_up_and_can_be_told_again(
    place: Place, http: HttpReceiver
) -> None:
    http.answers = [500] * MAX_ATTEMPTS
    job = place.job(f"{http.url},file://kept.md")
    run = place.end(output="x")
    place.work_off()
    for _ in range(MAX_ATTEMPTS - 1):
        place.store.clock.advance(3600)
        assert place.rescue() == 1
        place.work_off()
    assert place.standing(run) is DeliveryState.FAILED
    assert place.store.runs.get(run.id).state is RunState.SUCCEEDED
    assert place.store.cron.show(job.id).last_status == "delivery_failed"
    redeliver(place.store.runs.get(run.id), place.deliveries, place.messages, everywhere=False,
              now_ms=place.store.clock.ms)  # fmt: skip
    assert place.work_off() == ["delivered"]
    assert place.store.cron.show(job.id).last_status == "ok"
    assert len(http.requests) == MAX_ATTEMPTS + 1
    assert (place.home / "output" / "kept.md").read_text() == "x\n"
    redeliver(place.store.runs.get(run.id), place.deliveries, place.messages, everywhere=True,
              now_ms=place.store.clock.ms)  # fmt: skip
    place.work_off()
    assert (place.home / "output" / "kept.md").read_text() == "x\nx\n"


def test_a_slow_target_is_not_waited_for(place: Place, http: HttpReceiver) -> None:
    http.answers = [None]
    place.job(f"{http.url},file://other.md")
    run = place.end(output="x")
    place.work_off()
    first, second = place.deliveries.get(run.id).parts or ()
    assert (first.state, second.state) == (DeliveryState.PENDING, DeliveryState.DELIVERED)


def test_a_mail_server_that_refuses_is_tried_again(place: Place, smtp: SmtpReceiver) -> None:
    smtp.refusal = "451 come back later"
    place.job(smtp.url)
    run = place.end(output="x")
    assert place.work_off() == ["pending"]
    smtp.refusal = ""
    place.store.clock.advance(10)
    place.rescue()
    assert place.work_off() == ["delivered"]
    assert len(smtp.mails) == 1
    assert place.standing(run) is DeliveryState.DELIVERED


def test_a_message_that_comes_twice_is_sent_once(place: Place, http: HttpReceiver) -> None:
    place.job(http.url)
    run = place.end(output="x")
    http.answers = [None]
    deliverer = place.deliverer()
    thread = threading.Thread(target=deliverer.deliver, args=(run.id,))
    thread.start()
    assert http.got_one.wait(10)
    assert place.deliverer().deliver(run.id) == "taken"
    http.release.set()
    thread.join(10)
    assert place.deliverer().deliver(run.id) == "over"
    assert len(http.requests) == 1


def test_a_sender_that_dies_between_sending_and_recording_makes_one_duplicate(
    place: Place, http: HttpReceiver
) -> None:
    class Died(BaseException):
        pass

    class Mortal(Deliveries):
        def done(self, *_: Any, **__: Any) -> str:
            raise Died

    place.job(http.url)
    run = place.end(output="x")
    whole, place.deliveries = place.deliveries, Mortal(place.store.database)
    with pytest.raises(Died):
        place.deliverer().deliver(run.id)
    place.deliveries = whole
    assert place.work_off() == ["taken"]
    place.store.clock.advance(60)
    assert place.rescue() == 1
    # Its claim has run out, and it is given the time to speak up.
    assert place.work_off() == ["taken"]
    place.store.clock.advance(GRACE_MS / 1000)
    assert place.rescue() == 1
    assert place.work_off() == ["delivered"]
    assert len(http.requests) == 2


def test_a_long_text_goes_on_where_it_stopped(place: Place, http: HttpReceiver) -> None:
    place.job(http.url)
    text = "\n".join(f"line {number:05}" for number in range(9000))
    place.end(output=text)
    http.answers = [200, 500]
    assert place.work_off() == ["pending"]
    place.store.clock.advance(10)
    place.rescue()
    assert place.work_off() == ["delivered"]
    sent = [http.messages[0], *http.messages[2:]]
    assert len(sent) == 4
    assert "\n".join(sent) == text


def test_a_file_goes_with_the_message(place: Place, http: HttpReceiver) -> None:
    chart = place.home / "cache" / "images" / "chart.png"
    chart.parent.mkdir(parents=True)
    chart.write_bytes(b"PNG")
    place.job(http.url)
    run = place.end(output=f"see\nMEDIA:{chart}\nMEDIA:/etc/passwd")
    place.work_off()
    sent = msgspec.json.decode(http.requests[0][1])
    assert [item["filename"] for item in sent["attachments"]] == ["chart.png"]
    assert "root:" not in str(sent)
    warning = place.store.runs.get(run.id).delivery_warning or ""
    assert "'/etc/passwd' was not sent" in warning


def test_a_bad_template_falls_back_with_a_warning_on_the_run(
    place: Place, http: HttpReceiver
) -> None:
    place.job(http.url, template="{{ no.such }}")
    run = place.end(output="plain")
    assert place.work_off() == ["delivered"]
    assert http.messages == ["plain"]
    assert "the template failed" in (place.store.runs.get(run.id).delivery_warning or "")


def test_a_failure_is_told_once_then_rarely_and_its_end_too(
    place: Place, http: HttpReceiver
) -> None:
    place.job(http.url)
    runs = []
    for number in range(1, 13):
        place.store.clock.advance(60)
        runs.append(place.end(error=f"Script exited with code 1\nstderr:\ndisk full at {number}"))
        place.work_off()
    summary = "⚠️ Cron 'disks' failed: Script exited with code 1 stderr: disk full at"
    assert http.messages == [
        f"{summary} 1 → hermes-celery logs {runs[0].id}",
        f"{summary} 3 (3 times since the last success) → hermes-celery logs {runs[2].id}",
        f"{summary} 10 (10 times since the last success) → hermes-celery logs {runs[9].id}",
    ]
    assert place.standing(runs[0]) is DeliveryState.DELIVERED
    assert place.standing(runs[1]) is DeliveryState.NONE
    (incident,) = place.incidents.open()
    assert (incident.count, incident.told) == (12, 10)
    place.end(output="", silent=True)
    place.work_off()
    assert http.messages[-1].startswith("✅ Cron 'disks' works again; it failed 12 times since")
    assert place.incidents.open() == []
    place.end(output="", silent=True)
    assert place.work_off() == []


def test_another_failure_is_another_incident(place: Place, http: HttpReceiver) -> None:
    place.job(http.url)
    for error in ("no route to host", "disk full", "no route to host", "disk full"):
        place.store.clock.advance(60)
        place.end(error=error)
        place.work_off()
    assert len(http.messages) == 2
    assert len(place.incidents.open()) == 2


def test_an_acknowledged_incident_is_quiet_until_it_is_over(
    place: Place, http: HttpReceiver
) -> None:
    place.job(http.url)
    place.end(error="boom")
    place.work_off()
    (incident,) = place.incidents.open()
    assert place.incidents.ack(incident.id, now_ms=place.store.clock.ms)
    for _ in range(4):
        place.end(error="boom")
        place.work_off()
    assert len(http.messages) == 1
    place.end(output="fine")
    place.work_off()
    assert [m.split(";")[0] for m in http.messages[1:]] == [
        "fine", "✅ Cron 'disks' works again",
    ]  # fmt: skip


def test_failures_go_where_the_job_wants_them(place: Place, http: HttpReceiver) -> None:
    place.job("local", failure_deliver=http.url)
    fine = place.end(output="fine")
    failed = place.end(error="boom")
    place.work_off()
    assert [message.split(" →")[0] for message in http.messages] == ["⚠️ Cron 'disks' failed: boom"]
    assert (place.standing(fine), place.standing(failed)) == (
        DeliveryState.NONE,
        DeliveryState.DELIVERED,
    )


def test_a_failure_is_told_again_when_somebody_asks(place: Place, http: HttpReceiver) -> None:
    place.job(http.url)
    place.end(error="boom")
    quiet = place.end(error="boom")
    place.work_off()
    redeliver(place.store.runs.get(quiet.id), place.deliveries, place.messages, everywhere=False,
              now_ms=place.store.clock.ms)  # fmt: skip
    place.work_off()
    assert len(http.messages) == 2
    assert quiet.id in http.messages[1]


def test_what_printed_nothing_cannot_be_delivered_again(place: Place) -> None:
    place.job("local")
    run = place.end(output="", silent=True)
    with pytest.raises(JobError, match="printed nothing"):
        redeliver(run, place.deliveries, place.messages, everywhere=True, now_ms=0)


def test_no_token_reaches_a_log(
    place: Place, http: HttpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    place.job(http.url, ping=f"http://{http.address}/secret-uuid")
    with caplog.at_level(logging.DEBUG):
        place.end(output="x")
        eventually(lambda: http.requests, what="the start's ping")
        http.answers = [500, 500]
        place.work_off()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("delivery.retrying" in line for line in lines) == 2
    assert not any("secret" in line for line in lines)


def test_pings_follow_the_protocol_of_healthchecks(place: Place, http: HttpReceiver) -> None:
    place.job("local", ping=f"http://{http.address}/uuid?create=1")
    place.end(output="did it")
    eventually(lambda: len(http.requests) == 1, what="the start's ping")
    place.work_off()
    http.answers = [200, 503]
    place.end(error="boom", exit_code=3)
    eventually(lambda: len(http.requests) == 3, what="the second start's ping")
    place.work_off()
    place.store.clock.advance(10)
    place.rescue()
    place.work_off()
    paths = [path.split("rid=")[0] for path, _ in http.requests]
    ends = ["/uuid/start?create=1&", "/uuid?create=1&", "/uuid/start?create=1&",
            "/uuid/3?create=1&", "/uuid/3?create=1&"]  # fmt: skip
    assert paths == ends
    rids = [path.split("rid=")[1] for path, _ in http.requests]
    assert rids[0] == rids[1] != rids[2] == rids[3]
    assert [body for _, body in http.requests] == [b"", b"did it", b"", b"boom", b"boom"]


def test_hermes_send_takes_what_apprise_does_not(place: Place) -> None:
    fake = place.home / "hermes"
    fake.write_text('#!/bin/sh\necho "$@" > "$HERMES_HOME/args"; cat > "$HERMES_HOME/said"\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    place.job("discord:123:9")
    place.end(output="hello")
    assert place.work_off() == ["delivered"]
    assert (place.home / "args").read_text() == "send --to discord:123:9\n"
    assert (place.home / "said").read_text() == "hello"
    fake.write_text('#!/bin/sh\necho "hermes send: no such channel" >&2; exit 1\n')
    run = place.end(output="hello")
    assert place.work_off() == ["pending"]
    (part,) = place.deliveries.get(run.id).parts or ()
    assert part.error == "delivery error: no such channel"


class FarEnd:
    """A channel whose far end does what a case says."""

    seconds = 1.0

    def __init__(self, behaviour: dict[str, Any]) -> None:
        self._behaviour = behaviour

    def pieces(self, text: str) -> list[str]:
        return [text]

    def send(self, piece: str, *, title: str, files: tuple[Path, ...]) -> None:
        if "send_returns" in self._behaviour:
            raise DeliveryFault(f"delivery error: {self._behaviour['send_returns']['error']}")
        if "send_raises" in self._behaviour:
            raise ConnectionError("x")


class FarEnds(Channels):
    """Channels to such a far end."""

    def __init__(self, behaviour: dict[str, Any]) -> None:
        super().__init__(environment={}, files_dir=Path("/"), timeout_seconds=1,
                         hermes_command="/no/hermes")  # fmt: skip
        self._behaviour = behaviour

    def way_to(self, target: Target) -> Any:
        if {"platform_enabled", "platform_configured", "job"} & set(self._behaviour):
            return super().way_to(target)
        return FarEnd(self._behaviour)


@pytest.mark.parametrize("case", cases("delivery.error"), ids=lambda c: str(c["input"]))
def test_errors_read_as_those_of_hermes(place: Place, case: dict[str, Any]) -> None:
    given = case["input"]
    place.job(given.get("job", {}).get("deliver", "telegram:123"))
    run = place.end(output="x")
    deliverer = place.deliverer()
    deliverer._channels = FarEnds(given)
    deliverer.deliver(run.id)
    told = place.store.cron.show("disks").last_delivery_error
    expected = case["expected"]["returns"]
    assert told == expected


def test_a_platform_without_its_variables_is_not_tried_for_hours(place: Place) -> None:
    with pytest.raises(DeliveryRefused):
        place.deliverer()._channels.way_to(Target(platform="telegram", chat_id="1"))
    place.job("telegram:1")
    run = place.end(output="x")
    assert place.work_off() == ["failed"]
    assert place.standing(run) is DeliveryState.FAILED


def test_a_removed_job_s_output_is_not_delivered(place: Place, http: HttpReceiver) -> None:
    place.job(http.url)
    run = place.end(output="x")
    place.store.cron.remove("disks")
    place.work_off()
    assert place.standing(run) is DeliveryState.NONE
    assert place.deliveries.due(place.store.clock.ms + 10**9, limit=1) == []


@pytest.mark.parametrize("deliver", ["garbage", "telegram:1"])
def test_an_alert_that_reaches_nobody_is_logged_and_an_incident(
    place: Place, caplog: pytest.LogCaptureFixture, deliver: str
) -> None:
    now_ms = place.store.clock.ms
    place.deliveries.notice("notice-x-1", "⚠️ no beat", deliver=deliver, incident="x", count=1,
                            now_ms=now_ms, job_id="")  # fmt: skip
    place.rescue()
    place.work_off()
    (incident,) = place.incidents.of_job("")
    assert f"nobody was told at {deliver}: " in incident.text
    assert any("delivery.broken" in line for line in caplog.messages)


class CountingBook(AddressBook):
    """An address book that counts how often its names are read and a message is made."""

    read, made = 0, 0

    def names(self) -> Mapping[str, str]:
        type(self).read += 1
        return super().names()

    def attachments(self, text: str) -> ExtractedFiles:
        type(self).made += 1
        return super().attachments(text)


def test_one_pass_reads_the_names_once_and_makes_one_message_for_all_targets(
    place: Place, http: HttpReceiver
) -> None:
    class Book(CountingBook):
        pass

    place.book = Book
    place.targets_toml.write_text(f'a = "{http.url}"\nb = "{http.url}"\nc = "{http.url}"')
    place.job("a,b,c", template="{{ output }}!")
    run = place.end(output="x")
    assert place.work_off() == ["delivered"]
    assert http.messages == ["x!"] * 3
    assert (Book.read, Book.made) == (1, 1)
    assert place.standing(run) is DeliveryState.DELIVERED


def test_a_target_that_fails_costs_one_reading_and_one_message_for_each_attempt(
    place: Place, http: HttpReceiver
) -> None:
    """What was delivered is not made again, and a change of the file holds at the next attempt."""

    class Book(CountingBook):
        pass

    place.book = Book
    place.targets_toml.write_text('ops = "json://127.0.0.1:1/"')
    place.job("ops")
    run = place.end(output="x")
    place.work_off()
    assert (Book.read, Book.made) == (1, 1)
    place.targets_toml.write_text(f'ops = "{http.url}"')
    place.store.clock.advance(60)
    assert place.rescue() == 1
    place.work_off()
    assert place.standing(run) is DeliveryState.DELIVERED
    assert (Book.read, Book.made) == (2, 2)
