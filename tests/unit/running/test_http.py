"""HTTP runs against a real server on loopback, which must be allowed by name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hermes_celery.core.output import CAP_BYTES
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.core.work import HttpCall
from hermes_celery.errors import JobError
from hermes_celery.running.heartbeat import RunningRun
from hermes_celery.running.http import HttpRunner
from hermes_celery.session import Session
from tests.pace import quiet_seconds_until
from tests.support import a_spec, eventually

_ALLOWED = frozenset(("127.0.0.1",))


class Server:
    """An HTTP server that records requests and answers with the preset status and body."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.status = 200
        self.body = b"done"
        self.location = ""
        self.cookies: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Print nothing."""

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.requests.append((self.command, self.path, dict(self.headers), body))
                server.gate.wait(30)
                redirects = server.location and self.path == "/redirect"
                self.send_response(302 if redirects else server.status)
                if redirects:
                    self.send_header("Location", server.location)
                for cookie in server.cookies:
                    self.send_header("Set-Cookie", cookie)
                self.send_header("Content-Length", str(len(server.body)))
                self.end_headers()
                try:
                    self.wfile.write(server.body)
                except OSError:
                    return

            do_GET = do_POST = do_PUT = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def send(
    call: HttpCall,
    *,
    allow: frozenset[str] = _ALLOWED,
    stop: RunningRun | None = None,
    **fields: Any,
) -> Outcome:
    spec = a_spec(prompt=None, http=call, **fields)
    return HttpRunner(allow_private=allow).perform(
        spec, Session(run_id="the-run"), stop or RunningRun()
    )


def test_a_request_is_sent_as_stored_and_its_answer_is_the_output(server: Server) -> None:
    call = HttpCall(
        url=f"{server.url}/hook?x=1", method="post", headers={"X-Who": "me"}, body='{"a": "ä"}'
    )
    outcome = send(call)
    assert (outcome.state, outcome.output, outcome.error) == (RunState.SUCCEEDED, b"done", None)
    ((method, path, headers, body),) = server.requests
    assert (method, path, body.decode()) == ("POST", "/hook?x=1", '{"a": "ä"}')
    assert headers["X-Who"] == "me"
    assert headers["Idempotency-Key"] == "the-run"


@pytest.mark.parametrize(
    ("status", "expect", "state"),
    [
        (204, (), RunState.SUCCEEDED),
        (404, (), RunState.FAILED),
        (404, (404,), RunState.SUCCEEDED),
        (200, (202, 204), RunState.FAILED),
    ],
)
def test_the_status_code_decides_the_state_of_the_run(
    server: Server, status: int, expect: tuple[int, ...], state: RunState
) -> None:
    server.status = status
    server.body = b"" if status == 204 else b"why"
    outcome = send(HttpCall(url=server.url, expect=expect))
    assert outcome.state is state
    if state is RunState.FAILED:
        wanted = ", ".join(map(str, expect)) or "2xx"
        assert outcome.error == f"GET {server.url} answered {status}, expected {wanted}\nwhy"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "http://localhost/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://100.64.0.1/",
    ],
)
def test_an_address_that_is_not_public_is_refused(url: str) -> None:
    outcome = send(HttpCall(url=url), allow=frozenset())
    assert outcome.state is RunState.FAILED
    assert "name the host in HERMES_CELERY_HTTP_ALLOW_PRIVATE" in (outcome.error or "")


def test_a_redirect_is_checked_like_the_first_address(server: Server) -> None:
    server.location = f"{server.url}/end"
    assert send(HttpCall(url=f"{server.url}/redirect")).state is RunState.SUCCEEDED
    for inside in (
        "http://localhost:1/",
        "http://169.254.169.254/",
        "http://127.0.0.1.nip@10.0.0.1/",
    ):
        server.location = inside
        outcome = send(HttpCall(url=f"{server.url}/redirect"))
        assert outcome.state is RunState.FAILED
        assert "not public" in (outcome.error or "")


def test_on_allows_all_private_addresses(server: Server) -> None:
    assert send(HttpCall(url=server.url), allow=frozenset(("on",))).state is RunState.SUCCEEDED


def test_a_secret_that_the_server_echoes_is_masked(server: Server) -> None:
    server.body = b"you sent abcdefgh12345678 and sk-abcdefghijklmnop"
    headers = {"Authorization": "Bearer abcdefgh12345678"}
    assert send(HttpCall(url=server.url, headers=headers)).output == b"you sent *** and ***"


@pytest.mark.parametrize(
    ("name", "value", "secrets"),
    [
        ("Cookie", "first=firstsecret; second=secondsecret; third=thirdsecret",
         ["firstsecret", "secondsecret", "thirdsecret"]),
        ("cookie", "a=1;b=2", ["a=1", "b=2"]),
        ("X-Api-Key", "firstsecret secondsecret", ["firstsecret", "secondsecret"]),
        ("Authorization", 'Digest username="me", response="responsesecret", nonce="noncesecret"',
         ["responsesecret", "noncesecret"]),
        ("Authorization", "Basic bWU6bG9uZ3NlY3JldA==", ["bWU6bG9uZ3NlY3JldA", "longsecret"]),
    ],
)  # fmt: skip
def test_every_part_of_an_echoed_credential_is_masked(
    server: Server, name: str, value: str, secrets: list[str]
) -> None:
    server.status = 500
    server.body = (
        f"{name}: {value}\nparts: {' and '.join(s for s in secrets if len(s) > 3)}".encode()
    )
    outcome = send(HttpCall(url=server.url, headers={name: value}))
    for secret in secrets:
        assert secret not in (outcome.error or "")
        assert secret.encode() not in outcome.output


def test_an_echoed_cookie_of_the_server_is_masked(server: Server) -> None:
    server.status, server.cookies = 500, ["sid=sessionsecret; Path=/", "csrf=csrfsecret1"]
    server.location, server.body = f"{server.url}/end", b"you are sessionsecret, csrfsecret1"
    outcome = send(HttpCall(url=f"{server.url}/redirect"))
    assert server.requests[-1][2]["Cookie"] == "sid=sessionsecret; csrf=csrfsecret1"
    assert outcome.output == b"you are ***, ***"
    assert "csrfsecret1" not in (outcome.error or "")


def test_an_echoed_password_of_the_url_is_masked(server: Server) -> None:
    server.status, server.body = 401, b"no such user: longsecret"
    outcome = send(HttpCall(url=f"{server.url}/?password=longsecret"))
    assert "longsecret" not in (outcome.error or "")
    assert outcome.output == b"no such user: ***"


def test_a_large_body_is_capped(server: Server) -> None:
    server.body = b"x" * (CAP_BYTES + 100_000)
    output = send(HttpCall(url=server.url)).output
    assert len(output) < CAP_BYTES + 100
    assert output.endswith(b"[... cut: output is kept up to 1 MiB ...]\n")


def test_a_server_that_does_not_answer_times_out(server: Server) -> None:
    server.gate.clear()
    outcome = send(HttpCall(url=server.url), timeout_seconds=0.4)
    assert outcome.state in (RunState.TIMED_OUT, RunState.FAILED)
    assert outcome.error


def test_a_waiting_request_is_cancelled_at_once(server: Server) -> None:
    server.gate.clear()
    stop = RunningRun()
    outcomes: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(send(HttpCall(url=server.url), stop=stop))
    )
    thread.start()
    eventually(lambda: server.requests, what="the request")
    stop.set("cancel")
    took = quiet_seconds_until(lambda: not thread.is_alive(), seconds=20, what="the end")
    assert took < 1
    assert [outcome.state for outcome in outcomes] == [RunState.CANCELLED]


def test_an_unknown_host_fails_the_run_with_one_sentence() -> None:
    outcome = send(HttpCall(url="http://nowhere.invalid/"))
    assert outcome.state is RunState.FAILED
    assert "GET http://nowhere.invalid/ failed" in (outcome.error or "")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"url": "ftp://x/"}, "not a URL to call"),
        ({"url": "ftp://u:p@x/?password=p"}, r"'ftp://[*]{3}@x/[?]password=[*]{3}' is not a URL"),
        ({"url": "http:///x"}, "not a URL to call: it names no host"),
        ({"url": "https://[::1"}, "not a URL to call: its host is not a host name or address"),
        ({"url": "https://[::1]x/"}, "not a URL to call: its host is not a host name or address"),
        ({"url": "https://a..b/"}, "not a URL to call: its host is not a host name or address"),
        ({"url": "https://h:99999/"}, "not a URL to call: its port is not a number"),
        ({"url": "https://exa mple/"}, "not a URL to call: it has a blank"),
        ({"url": "http://u:p@h/"}, "use a header"),
        ({"url": "http://h/", "method": "BREW"}, "not an HTTP method"),
        ({"url": "http://h/", "headers": {"a b": "c"}}, "must be a name and a value"),
        ({"url": "http://h/", "headers": {"a": "b\nc: d"}}, "must be a name and a value"),
        ({"url": "http://h/", "expect": (7,)}, "200 to 599"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(JobError, match=why):
        a_spec(prompt=None, http=HttpCall(**fields))


def test_a_job_with_two_kinds_of_work_is_refused() -> None:
    call = HttpCall(url="http://h/")
    with pytest.raises(JobError, match="one kind of work"):
        a_spec(prompt="p", http=call)
    with pytest.raises(JobError, match="one kind of work"):
        a_spec(prompt=None, script="s.sh", http=call)


def test_a_proxy_in_the_environment_is_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert send(HttpCall(url=server.url)).state is RunState.SUCCEEDED
