"""Receivers of deliveries on loopback: HTTP and SMTP servers that can be made to misbehave."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller


class HttpReceiver:
    """An HTTP server that records requests and answers with the preset statuses, then with 200."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        #: The statuses of the next answers; None holds the answer back until `release` is set.
        self.answers: list[int | None] = []
        self.release = threading.Event()
        self.got_one = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """An apprise URL of this server; its path stands for a secret token."""
        return f"json://{self.address}/secret-token"

    @property
    def messages(self) -> list[str]:
        """The texts received as apprise's JSON."""
        return [json.loads(body)["message"] for _, body in self.requests]

    def close(self) -> None:
        """Stop the server and answer the requests that wait."""
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                receiver.requests.append((self.path, body))
                receiver.got_one.set()
                status = receiver.answers.pop(0) if receiver.answers else 200
                if status is None:
                    receiver.release.wait(60)
                    status = 200
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "1")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        return Handler


class SmtpReceiver:
    """An SMTP server that records mails; while `refusal` is set, it refuses them with that text."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.refusal = ""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._controller = Controller(self, hostname="127.0.0.1", port=self._port)
        self._controller.start()

    @property
    def url(self) -> str:
        """An apprise URL of this server."""
        query = "from=bot@example.com&to=ops@example.com&mode=insecure"
        return f"mailto://127.0.0.1:{self._port}?{query}"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Record a mail; aiosmtpd calls this hook."""
        if self.refusal:
            return self.refusal
        parsed = message_from_bytes(envelope.content, policy=policy.default)
        self.mails.append(parsed)
        return "250 taken"

    def close(self) -> None:
        """Stop the server."""
        self._controller.stop()


@contextmanager
def http_receiver() -> Iterator[HttpReceiver]:
    """Run an HTTP receiver for one test."""
    receiver = HttpReceiver()
    try:
        yield receiver
    finally:
        receiver.close()


@contextmanager
def smtp_receiver() -> Iterator[SmtpReceiver]:
    """Run an SMTP receiver for one test."""
    receiver = SmtpReceiver()
    try:
        yield receiver
    finally:
        receiver.close()


class Flood:
    """A server that answers each connection with endless data, at most `MOST` bytes in all."""

    MOST = 50_000_000

    def __init__(self, head: bytes, again: bytes, *, pause_seconds: float = 0.0) -> None:
        self.sent = 0
        self.connections = 0
        self._head, self._again, self._pause_seconds = head, again, pause_seconds
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Stop the server."""
        self._stop.set()
        self._listener.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._flood, args=(connection,), daemon=True).start()

    def _flood(self, connection: socket.socket) -> None:
        connection.settimeout(60)
        with connection, suppress(OSError):
            connection.sendall(self._head)
            while self.sent < self.MOST and not self._stop.wait(self._pause_seconds):
                connection.sendall(self._again)
                self.sent += len(self._again)


@contextmanager
def flood(head: bytes, again: bytes, *, pause_seconds: float = 0.0) -> Iterator[Flood]:
    """Run a server with an endless answer for one test."""
    server = Flood(head, again, pause_seconds=pause_seconds)
    try:
        yield server
    finally:
        server.close()
