"""The error replies of a server become errors that say whether waiting helps."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import fakeredis
import pytest

from hermes_celery.errors import StoreError, StoreForbidden, StoreUnavailable, StoreUnsuitable
from hermes_celery.store import Database, connect
from hermes_celery.store.database import ScriptCall

_PASSING = (
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "READONLY You can't write against a read only replica.",
    "UNBLOCKED force unblock from blocking operation, instance state changed",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
    "NOREPLICAS Not enough good replicas to write.",
    "ERR Error running script: @user_script:3: -READONLY You can't write against a replica",
)
_FINAL = (
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF Errors writing to the AOF file",
    "CROSSSLOT Keys in request don't hash to the same slot",
)


_FORBIDDEN = (
    "NOPERM No permissions to access a key",
    "ERR ACL failure in script: No permissions to access a key",
    "ERR ACL failure in script: User x has no permissions to run the 'llen' command",
    "ERR The user executing the script can't access at least one of the keys mentioned",
)


@contextmanager
def server(answer: str) -> Iterator[str]:
    """Run a server that greets like Redis and answers every other command with this error."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while head := self.rfile.readline():
                words = []
                for _ in range(int(head[1:])):
                    size = int(self.rfile.readline()[1:])
                    words.append(self.rfile.read(size + 2)[:-2])
                self.wfile.write(self._answer(words[0].upper()))

        def _answer(self, command: bytes) -> bytes:
            if command == b"HELLO":
                return b"%1\r\n$5\r\nproto\r\n:3\r\n"
            return b"+OK\r\n" if command == b"CLIENT" else f"-{answer}\r\n".encode()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listening.server_address[1]}/0"
        finally:
            listening.shutdown()
            thread.join()


def refusals(url: str) -> list[StoreError]:
    """Return the error that each kind of call raises for the server's answer."""
    database = Database(connect(url))
    call = ScriptCall(keys=["k"], args=[1])

    def ask_many(answers: Callable[[], list[object]]) -> None:
        """Make a call with several answers and raise the first, which must be an error."""
        for answer in answers():
            assert isinstance(answer, StoreError)
            raise answer

    found = []
    for ask in (
        lambda: database.call("GET", "k"),
        lambda: ask_many(lambda: database.call_many([("GET", "k")])),
        lambda: database.run_listed("fault", keys=call.keys, args=call.args),
        lambda: database.begin("fault", keys=call.keys, args=call.args)(),
        lambda: ask_many(lambda: database.run_many("fault", [call])),
    ):
        with pytest.raises(StoreError) as caught:
            ask()
        found.append(caught.value)
    database.close()
    return found


@pytest.mark.parametrize("answer", _PASSING)
def test_a_temporary_error_of_the_server_is_raised_as_unavailable(answer: str) -> None:
    with server(answer) as url:
        kinds = {type(error) for error in refusals(url)}
    assert kinds == {StoreUnavailable}


@pytest.mark.parametrize("answer", _FINAL)
def test_a_permanent_error_of_the_server_is_not_unavailable(answer: str) -> None:
    with server(answer) as url:
        kinds = {type(error) for error in refusals(url)}
    assert kinds == {StoreError}


@pytest.mark.parametrize("answer", _FORBIDDEN)
def test_a_missing_permission_is_raised_as_forbidden(answer: str) -> None:
    with server(answer) as url:
        kinds = {type(error) for error in refusals(url)}
    assert kinds == {StoreForbidden}


class _Cluster(fakeredis.FakeRedis):
    def execute_command(self, *args: object, **options: object) -> object:
        if args[0] == "INFO":
            return {"valkey_version": "9.0.0", "role": "master", "cluster_enabled": 1}
        raise AssertionError(args)


def test_a_cluster_node_is_refused() -> None:
    database = Database(_Cluster(decode_responses=True))
    with pytest.raises(StoreUnsuitable, match="part of a cluster"):
        database.check()


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        ("MISCONF Errors writing to the AOF file: No space left", "make room on that disk"),
        ("ERR Error running script: -MISCONF Errors writing to the AOF", "make room on that disk"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "raise its maxmemory"),
    ],
)
def test_an_error_about_refused_writes_gives_advice(answer: str, advice: str) -> None:
    with server(answer) as url, pytest.raises(StoreError) as error:
        Database(connect(url)).call("SET", "x", "y")
    assert str(error.value).startswith("the server ")
    assert advice in str(error.value)
    assert answer.removeprefix("OOM ").removeprefix("ERR ") in str(error.value)
