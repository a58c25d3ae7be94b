"""Tests of delivery to real receivers: what arrives, what is retried, which incidents are sent."""

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
from hermes_celery.store import Database, Deliveries, ToldIncident
from hermes_celery.store.deliveries import GRACE_MS
from tests.receivers import HttpReceiver, SmtpReceiver, http_receiver, smtp_receiver
from tests.store.delivering_host import DeliveringHost, at
from tests.support import HandClock, cases, eventually


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
def smtp() -> Iterator[SmtpReceiver]:
    """Yield a mail server that receives messages."""
    with smtp_receiver() as receiver:
        yield receiver


def test_output_reaches_every_target_in_hermes_wrapping(
    host: DeliveringHost, http: HttpReceiver, smtp: SmtpReceiver
) -> None:
    host.targets_toml.write_text(f'ops = "{http.url}"')
    host.wrap = True
    host.job(f"ops,{smtp.url},file://reports/daily.md")
    run = host.end(output="all is well\n")
    assert host.work_off() == ["delivered"]
    assert host.standing(run) is DeliveryState.DELIVERED
    (message,) = http.messages
    assert message.startswith("Cronjob Response: disks\n(job_id: ")
    assert "all is well" in message
    (mail,) = smtp.mails
    assert "disks" in mail["Subject"]
    assert "all is well" in str(mail.get_body(("plain", "html")))
    assert "all is well" in (host.home / "output" / "reports" / "daily.md").read_text()


def test_a_silent_run_delivers_nothing(host: DeliveringHost, http: HttpReceiver) -> None:
    host.job(http.url)
    silent = host.end(output="[SILENT]")
    empty = host.end(output="", silent=True)
    assert host.work_off() == []
    assert (host.standing(silent), host.standing(empty)) == (
        DeliveryState.SILENT,
        DeliveryState.SILENT,
    )
    assert http.requests == []


@pytest.mark.parametrize("status", [500, 502, 429, 404])
def test_a_target_that_refuses_is_tried_again_and_the_job_is_not_run_again(
    host: DeliveringHost, http: HttpReceiver, status: int
) -> None:
    http.answers = [status]
    job = host.job(http.url)
    run = host.end(output="x")
    assert host.work_off() == ["pending"]
    (part,) = host.deliveries.get(run.id).parts or ()
    assert part.error is not None
    assert str(status) in part.error
    assert part.error.startswith("delivery error: ")
    assert "secret-token" not in part.error
    assert host.store.cron.show(job.id).last_delivery_error == part.error
    wait = 40 if status == 429 else 10
    host.store.clock.advance(wait - 1)
    assert host.rescue() == 0
    host.store.clock.advance(1)
    assert host.rescue() == 1
    assert host.work_off() == ["delivered"]
    assert len(http.requests) == 2
    assert host.store.cron.show(job.id).last_delivery_error is None
    assert [r.id for r in host.store.cron.latest_runs()] == [run.id]


def test_a_target_that_always_fails_is_given_up_and_can_be_redelivered(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    http.answers = [500] * MAX_ATTEMPTS
    job = host.job(f"{http.url},file://kept.md")
    run = host.end(output="x")
    host.work_off()
    for _ in range(MAX_ATTEMPTS - 1):
        host.store.clock.advance(3600)
        assert host.rescue() == 1
        host.work_off()
    assert host.standing(run) is DeliveryState.FAILED
    assert host.store.runs.get(run.id).state is RunState.SUCCEEDED
    assert host.store.cron.show(job.id).last_status == "delivery_failed"
    redeliver(host.store.runs.get(run.id), host.deliveries, host.messages, everywhere=False,
              now_ms=host.store.clock.ms)  # fmt: skip
    assert host.work_off() == ["delivered"]
    assert host.store.cron.show(job.id).last_status == "ok"
    assert len(http.requests) == MAX_ATTEMPTS + 1
    assert (host.home / "output" / "kept.md").read_text() == "x\n"
    redeliver(host.store.runs.get(run.id), host.deliveries, host.messages, everywhere=True,
              now_ms=host.store.clock.ms)  # fmt: skip
    host.work_off()
    assert (host.home / "output" / "kept.md").read_text() == "x\nx\n"


def test_a_slow_target_does_not_delay_the_others(host: DeliveringHost, http: HttpReceiver) -> None:
    http.answers = [None]
    host.job(f"{http.url},file://other.md")
    run = host.end(output="x")
    host.work_off()
    first, second = host.deliveries.get(run.id).parts or ()
    assert (first.state, second.state) == (DeliveryState.PENDING, DeliveryState.DELIVERED)


def test_a_mail_server_that_refuses_is_tried_again(
    host: DeliveringHost, smtp: SmtpReceiver
) -> None:
    smtp.refusal = "451 come back later"
    host.job(smtp.url)
    run = host.end(output="x")
    assert host.work_off() == ["pending"]
    smtp.refusal = ""
    host.store.clock.advance(10)
    host.rescue()
    assert host.work_off() == ["delivered"]
    assert len(smtp.mails) == 1
    assert host.standing(run) is DeliveryState.DELIVERED


def test_a_message_that_comes_twice_is_sent_once(host: DeliveringHost, http: HttpReceiver) -> None:
    host.job(http.url)
    run = host.end(output="x")
    http.answers = [None]
    deliverer = host.deliverer()
    thread = threading.Thread(target=deliverer.deliver, args=(run.id,))
    thread.start()
    assert http.got_one.wait(10)
    assert host.deliverer().deliver(run.id) == "taken"
    http.release.set()
    thread.join(10)
    assert host.deliverer().deliver(run.id) == "over"
    assert len(http.requests) == 1


def test_a_sender_that_dies_between_sending_and_recording_makes_one_duplicate(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    class Died(BaseException):
        pass

    class Mortal(Deliveries):
        def done(self, *_: Any, **__: Any) -> str:
            raise Died

    host.job(http.url)
    run = host.end(output="x")
    whole, host.deliveries = host.deliveries, Mortal(host.store.database)
    with pytest.raises(Died):
        host.deliverer().deliver(run.id)
    host.deliveries = whole
    assert host.work_off() == ["taken"]
    host.store.clock.advance(60)
    assert host.rescue() == 1
    # Its claim has expired, but it still has the grace time to renew it.
    assert host.work_off() == ["taken"]
    host.store.clock.advance(GRACE_MS / 1000)
    assert host.rescue() == 1
    assert host.work_off() == ["delivered"]
    assert len(http.requests) == 2


def test_a_long_text_is_continued_at_the_piece_that_failed(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    host.job(http.url)
    text = "\n".join(f"line {number:05}" for number in range(9000))
    host.end(output=text)
    http.answers = [200, 500]
    assert host.work_off() == ["pending"]
    host.store.clock.advance(10)
    host.rescue()
    assert host.work_off() == ["delivered"]
    sent = [http.messages[0], *http.messages[2:]]
    assert len(sent) == 4
    assert "\n".join(sent) == text


def test_an_allowed_file_is_sent_with_the_message_and_others_are_not(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    chart = host.home / "cache" / "images" / "chart.png"
    chart.parent.mkdir(parents=True)
    chart.write_bytes(b"PNG")
    host.job(http.url)
    run = host.end(output=f"see\nMEDIA:{chart}\nMEDIA:/etc/passwd")
    host.work_off()
    sent = msgspec.json.decode(http.requests[0][1])
    assert [item["filename"] for item in sent["attachments"]] == ["chart.png"]
    assert "root:" not in str(sent)
    warning = host.store.runs.get(run.id).delivery_warning or ""
    assert "'/etc/passwd' was not sent" in warning


def test_a_bad_template_falls_back_with_a_warning_on_the_run(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    host.job(http.url, template="{{ no.such }}")
    run = host.end(output="plain")
    assert host.work_off() == ["delivered"]
    assert http.messages == ["plain"]
    assert "the template failed" in (host.store.runs.get(run.id).delivery_warning or "")


def test_a_failure_is_sent_at_counts_1_3_and_10_and_so_is_its_recovery(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    host.job(http.url)
    runs = []
    for number in range(1, 13):
        host.store.clock.advance(60)
        runs.append(host.end(error=f"Script exited with code 1\nstderr:\ndisk full at {number}"))
        host.work_off()
    summary = "⚠️ Cron 'disks' failed: Script exited with code 1 stderr: disk full at"
    assert http.messages == [
        f"{summary} 1 → hermes-celery logs {runs[0].id}",
        f"{summary} 3 (3 times since the last success) → hermes-celery logs {runs[2].id}",
        f"{summary} 10 (10 times since the last success) → hermes-celery logs {runs[9].id}",
    ]
    assert host.standing(runs[0]) is DeliveryState.DELIVERED
    assert host.standing(runs[1]) is DeliveryState.NONE
    (incident,) = host.incidents.open()
    assert (incident.count, incident.told) == (12, 10)
    host.end(output="", silent=True)
    host.work_off()
    assert http.messages[-1].startswith("✅ Cron 'disks' works again; it failed 12 times since")
    assert host.incidents.open() == []
    host.end(output="", silent=True)
    assert host.work_off() == []


def test_another_failure_is_another_incident(host: DeliveringHost, http: HttpReceiver) -> None:
    host.job(http.url)
    for error in ("no route to host", "disk full", "no route to host", "disk full"):
        host.store.clock.advance(60)
        host.end(error=error)
        host.work_off()
    assert len(http.messages) == 2
    assert len(host.incidents.open()) == 2


def test_an_acknowledged_incident_sends_nothing_until_it_is_closed(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    host.job(http.url)
    host.end(error="boom")
    host.work_off()
    (incident,) = host.incidents.open()
    assert host.incidents.ack(incident.id, now_ms=host.store.clock.ms) == "ok"
    for _ in range(4):
        host.end(error="boom")
        host.work_off()
    assert len(http.messages) == 1
    host.end(output="fine")
    host.work_off()
    assert [m.split(";")[0] for m in http.messages[1:]] == [
        "fine", "✅ Cron 'disks' works again",
    ]  # fmt: skip


def test_failures_go_to_the_failure_target_of_the_job(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    host.job("local", failure_deliver=http.url)
    fine = host.end(output="fine")
    failed = host.end(error="boom")
    host.work_off()
    assert [message.split(" →")[0] for message in http.messages] == ["⚠️ Cron 'disks' failed: boom"]
    assert (host.standing(fine), host.standing(failed)) == (
        DeliveryState.NONE,
        DeliveryState.DELIVERED,
    )


def test_a_failure_is_sent_again_on_request(host: DeliveringHost, http: HttpReceiver) -> None:
    host.job(http.url)
    host.end(error="boom")
    quiet = host.end(error="boom")
    host.work_off()
    redeliver(host.store.runs.get(quiet.id), host.deliveries, host.messages, everywhere=False,
              now_ms=host.store.clock.ms)  # fmt: skip
    host.work_off()
    assert len(http.messages) == 2
    assert quiet.id in http.messages[1]


def test_a_run_without_output_cannot_be_delivered_again(host: DeliveringHost) -> None:
    host.job("local")
    run = host.end(output="", silent=True)
    with pytest.raises(JobError, match="printed nothing"):
        redeliver(run, host.deliveries, host.messages, everywhere=True, now_ms=0)


def test_no_token_reaches_a_log(
    host: DeliveringHost, http: HttpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    host.job(http.url, ping=f"http://{http.address}/secret-uuid")
    with caplog.at_level(logging.DEBUG):
        host.end(output="x")
        eventually(lambda: http.requests, what="the start's ping")
        http.answers = [500, 500]
        host.work_off()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("delivery.retrying" in line for line in lines) == 2
    assert not any("secret" in line for line in lines)


def test_pings_follow_the_healthchecks_protocol(host: DeliveringHost, http: HttpReceiver) -> None:
    host.job("local", ping=f"http://{http.address}/uuid?create=1")
    host.end(output="did it")
    eventually(lambda: len(http.requests) == 1, what="the start's ping")
    host.work_off()
    http.answers = [200, 503]
    host.end(error="boom", exit_code=3)
    eventually(lambda: len(http.requests) == 3, what="the second start's ping")
    host.work_off()
    host.store.clock.advance(10)
    host.rescue()
    host.work_off()
    paths = [path.split("rid=")[0] for path, _ in http.requests]
    ends = ["/uuid/start?create=1&", "/uuid?create=1&", "/uuid/start?create=1&",
            "/uuid/3?create=1&", "/uuid/3?create=1&"]  # fmt: skip
    assert paths == ends
    rids = [path.split("rid=")[1] for path, _ in http.requests]
    assert rids[0] == rids[1] != rids[2] == rids[3]
    assert [body for _, body in http.requests] == [b"", b"did it", b"", b"boom", b"boom"]


def test_targets_unknown_to_apprise_are_sent_by_hermes_send(host: DeliveringHost) -> None:
    fake = host.home / "hermes"
    fake.write_text('#!/bin/sh\necho "$@" > "$HERMES_HOME/args"; cat > "$HERMES_HOME/said"\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    host.job("discord:123:9")
    host.end(output="hello")
    assert host.work_off() == ["delivered"]
    assert (host.home / "args").read_text() == "send --to discord:123:9\n"
    assert (host.home / "said").read_text() == "hello"
    fake.write_text('#!/bin/sh\necho "hermes send: no such channel" >&2; exit 1\n')
    run = host.end(output="hello")
    assert host.work_off() == ["pending"]
    (part,) = host.deliveries.get(run.id).parts or ()
    assert part.error == "delivery error: no such channel"


class FarEnd:
    """A channel that behaves as a case says."""

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
    """Returns such a channel for every target."""

    def __init__(self, behaviour: dict[str, Any]) -> None:
        super().__init__(environment={}, files_dir=Path("/"), timeout_seconds=1,
                         hermes_command="/no/hermes")  # fmt: skip
        self._behaviour = behaviour

    def way_to(self, target: Target) -> Any:
        if {"platform_enabled", "platform_configured", "job"} & set(self._behaviour):
            return super().way_to(target)
        return FarEnd(self._behaviour)


@pytest.mark.parametrize("case", cases("delivery.error"), ids=lambda c: str(c["input"]))
def test_delivery_errors_are_worded_as_in_hermes(
    host: DeliveringHost, case: dict[str, Any]
) -> None:
    given = case["input"]
    host.job(given.get("job", {}).get("deliver", "telegram:123"))
    run = host.end(output="x")
    deliverer = host.deliverer()
    deliverer._channels = FarEnds(given)
    deliverer.deliver(run.id)
    error = host.store.cron.show("disks").last_delivery_error
    expected = case["expected"]["returns"]
    assert error == expected


def test_a_platform_without_its_variables_fails_at_once(host: DeliveringHost) -> None:
    with pytest.raises(DeliveryRefused):
        host.deliverer()._channels.way_to(Target(platform="telegram", chat_id="1"))
    host.job("telegram:1")
    run = host.end(output="x")
    assert host.work_off() == ["failed"]
    assert host.standing(run) is DeliveryState.FAILED


def test_a_removed_job_s_output_is_not_delivered(host: DeliveringHost, http: HttpReceiver) -> None:
    host.job(http.url)
    run = host.end(output="x")
    host.store.cron.remove("disks")
    host.work_off()
    assert host.standing(run) is DeliveryState.NONE
    assert host.deliveries.due(host.store.clock.ms + 10**9, limit=1) == []


@pytest.mark.parametrize("deliver", ["garbage", "telegram:1"])
def test_an_alert_without_a_working_target_is_logged_and_makes_an_incident(
    host: DeliveringHost, caplog: pytest.LogCaptureFixture, deliver: str
) -> None:
    now_ms = host.store.clock.ms
    host.deliveries.notice("notice-x-1", "⚠️ no beat", deliver=deliver, job_id="",
                           told=ToldIncident(id="x", count=1), now_ms=now_ms)  # fmt: skip
    host.rescue()
    host.work_off()
    (incident,) = host.incidents.of_job("")
    assert f"the notice did not reach {deliver}: " in incident.text
    assert any("delivery.broken" in line for line in caplog.messages)


class CountingBook(AddressBook):
    """An address book that counts how often it reads names and makes a message."""

    read, made = 0, 0

    def names(self) -> Mapping[str, str]:
        type(self).read += 1
        return super().names()

    def attachments(self, text: str) -> ExtractedFiles:
        type(self).made += 1
        return super().attachments(text)


def test_one_pass_reads_the_address_book_once_and_makes_one_message_for_all_targets(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    class Book(CountingBook):
        pass

    host.book = Book
    host.targets_toml.write_text(f'a = "{http.url}"\nb = "{http.url}"\nc = "{http.url}"')
    host.job("a,b,c", template="{{ output }}!")
    run = host.end(output="x")
    assert host.work_off() == ["delivered"]
    assert http.messages == ["x!"] * 3
    assert (Book.read, Book.made) == (1, 1)
    assert host.standing(run) is DeliveryState.DELIVERED


def test_each_attempt_at_a_failing_target_reads_the_address_book_and_makes_the_message_again(
    host: DeliveringHost, http: HttpReceiver
) -> None:
    """A delivered message is not made again; a change of the file is seen by the next attempt."""

    class Book(CountingBook):
        pass

    host.book = Book
    host.targets_toml.write_text('ops = "json://127.0.0.1:1/"')
    host.job("ops")
    run = host.end(output="x")
    host.work_off()
    assert (Book.read, Book.made) == (1, 1)
    host.targets_toml.write_text(f'ops = "{http.url}"')
    host.store.clock.advance(60)
    assert host.rescue() == 1
    host.work_off()
    assert host.standing(run) is DeliveryState.DELIVERED
    assert (Book.read, Book.made) == (2, 2)
