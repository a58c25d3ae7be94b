"""An endless or slow answer of a server costs a delivery only limited memory and time."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from pathlib import Path

import pytest

from hermes_celery.core.targets import Target
from hermes_celery.delivering.channel_apprise import AppriseChannel
from hermes_celery.delivering.channel_hermes import HermesChannel
from hermes_celery.delivering.dead_man_switch import Ping, PingSignal, send
from hermes_celery.errors import DeliveryFault
from hermes_celery.guards.answer_limits import ALL_BYTES, BODY_BYTES, limit_requests, limited
from tests.pace import own_seconds
from tests.receivers import flood, http_receiver, smtp_receiver
from tests.support import eventually

OK = b"HTTP/1.1 200 OK\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
#: Bytes that fit the sockets' buffers on both sides; a sender can send that much unread.
BUFFERS = 12_000_000


def deliver(url: str, *, timeout_seconds: float = 5.0) -> None:
    AppriseChannel(url, timeout_seconds=timeout_seconds).send("text", title="", files=())


@pytest.mark.parametrize(
    ("head", "again"),
    [
        (OK, b"x" * 65_536),
        (CHUNKED, b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 65_536),
    ],
    ids=["until closed", "chunked", "announced"],
)
def test_an_accepted_message_is_delivered_despite_an_endless_answer(
    head: bytes, again: bytes
) -> None:
    with flood(head, again) as server:
        deliver(f"json://{server.address}/")
        assert server.connections == 1
        assert server.sent < BUFFERS


@pytest.mark.parametrize(
    ("head", "again"),
    [(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000)],
    ids=["informational answers", "headers"],
)
def test_an_answer_with_endless_headers_is_cut_off(head: bytes, again: bytes) -> None:
    with flood(head, again) as server:
        with pytest.raises(DeliveryFault):
            deliver(f"json://{server.address}/")
        assert server.sent < BUFFERS


def test_a_mail_server_with_an_endless_greeting_is_cut_off() -> None:
    with flood(b"220-hello\r\n", b"220-and again\r\n" * 1000) as server:
        with pytest.raises(DeliveryFault):
            deliver(f"mailto://{server.address}?from=a@example.com&to=b@example.com&mode=insecure")
        assert server.sent < BUFFERS


def test_the_size_limit_counts_decompressed_bytes() -> None:
    import requests

    bomb = gzip.compress(bytes(50_000_000))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    limit_requests()
    with flood(head, bomb) as server, limited(10):
        answer = requests.get(f"http://{server.address}/", timeout=5)
        assert (answer.status_code, len(answer.content)) == (200, BODY_BYTES)


def test_an_answer_of_ordinary_size_is_not_cut() -> None:
    import requests

    body = gzip.compress(b'{"ok": true}')
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    limit_requests()
    with flood(head + body, b"") as server, limited(10):
        assert requests.get(f"http://{server.address}/", timeout=5).json() == {"ok": True}


def test_answers_outside_of_deliveries_are_not_cut() -> None:
    import requests

    size = 2 * ALL_BYTES
    limit_requests()
    with limited(1):
        pass
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    with flood(head, b"x" * 65_536) as server:
        assert len(requests.get(f"http://{server.address}/", timeout=5).content) == size


@pytest.mark.parametrize(
    ("head", "scheme"),
    [(b"", "json"), (b"HTTP/1.1 200 OK\r\nA: ", "json"), (OK, "json"), (b"220-", "mailto")],
    ids=["status", "header", "body", "mail"],
)
def test_a_trickling_answer_ends_at_the_timeout_of_the_delivery(head: bytes, scheme: str) -> None:
    query = "?from=a@example.com&to=b@example.com&mode=insecure" if scheme == "mailto" else ""
    with flood(head, b"H", pause_seconds=0.05) as server:
        # Made first: it imports Apprise, which takes a second once.
        channel = AppriseChannel(f"{scheme}://{server.address}/{query}", timeout_seconds=0.3)
        began = own_seconds()
        with pytest.raises(DeliveryFault):
            channel.send("text", title="", files=())
        assert own_seconds() - began < 3


def test_a_ping_with_a_trickling_answer_ends_at_its_timeout() -> None:
    with flood(b"HTTP/1.1 200 OK\r\nA: ", b"H", pause_seconds=0.05) as server:
        began = own_seconds()
        with pytest.raises(DeliveryFault):
            send(
                Ping(url=f"http://{server.address}/x", signal=PingSignal.START), timeout_seconds=0.5
            )
        assert own_seconds() - began < 3


def test_ordinary_messages_arrive_despite_the_limits(tmp_path: Path) -> None:
    attached = tmp_path / "chart.txt"
    attached.write_text("x" * 100_000)
    with http_receiver() as http, smtp_receiver() as smtp:
        channel = AppriseChannel(http.url, timeout_seconds=5)
        channel.send("text", title="", files=(attached,))
        assert http.messages == ["text"]
        deliver(smtp.url)
        assert len(smtp.mails) == 1


def hermes(tmp_path: Path, script: str, *, timeout_seconds: float = 5.0) -> HermesChannel:
    command = tmp_path / "hermes"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    target = Target(platform="discord", chat_id="1")
    environment = {"PATH": os.environ["PATH"]}
    return HermesChannel(
        str(command), target, timeout_seconds=timeout_seconds, environment=environment
    )


def test_only_the_end_of_hermes_sends_output_is_kept(tmp_path: Path) -> None:
    way = hermes(tmp_path, "head -c 50000000 /dev/zero; echo 'no such channel'; exit 1")
    tracemalloc.start()
    with pytest.raises(DeliveryFault, match=r"no such channel$") as fault:
        way.send("text", title="", files=())
    assert len(str(fault.value)) < 3000
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5_000_000


def test_hermes_send_and_its_children_end_at_the_timeout(tmp_path: Path) -> None:
    way = hermes(tmp_path, f"sleep 60 & echo $! > {tmp_path / 'c'}; wait")
    way.seconds = 0.5
    began = own_seconds()
    with pytest.raises(DeliveryFault, match="took over"):
        way.send("text", title="", files=())
    assert own_seconds() - began < 5
    child = int((tmp_path / "c").read_text())
    eventually(lambda: not Path(f"/proc/{child}/stat").exists() or "Z" in
               Path(f"/proc/{child}/stat").read_text().split(")")[1].split()[0],
               what="the end of its child process")  # fmt: skip
