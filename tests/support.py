"""What tests share: a clock set by hand, a stand-in for messages, cases, waiting for a state."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from celery import Celery

from hermes_celery.celery_app.messages import MessageBuilder
from hermes_celery.client import Client, JobChecks, NamespaceRecords, RunMessages
from hermes_celery.clock import ServerClock
from hermes_celery.core.built_message import BuiltMessage
from hermes_celery.core.job import Job, JobRequest, JobSpec, SessionSource
from hermes_celery.core.job_checks import define
from hermes_celery.instant import to_ms
from hermes_celery.store import Claim, Database, DueIndex, Jobs, Runs

DATA = Path(__file__).parent / "data"
NOON = datetime(2026, 6, 22, 12, 0, tzinfo=UTC)
_T = TypeVar("_T")


def cases(area: str) -> list[dict[str, Any]]:
    """The recorded facts of Hermes' cron in one area."""
    with (DATA / "cases" / "hermes.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = [row for row in rows if row["area"] == area]
    assert found, f"no case has the area {area!r}"
    return found


class HandClock:
    """A clock that stands still until it is set."""

    def __init__(self, now: datetime = NOON) -> None:
        self.ms = to_ms(now)
        self.seconds = 1000.0

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)
        self.seconds += seconds


class PlainMessages:
    """Messages without Celery: the run's id alone."""

    def __init__(self, queue: str) -> None:
        self._queue = queue

    def queue(self, spec: JobSpec) -> str:
        return self._queue

    def runs_again(self, spec: JobSpec) -> bool:
        """No task is at hand."""
        return False

    def message(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> bytes:
        return run_id.encode()

    def build(
        self, spec: JobSpec, *, run_id: str, due_ms: int, attempt: int = 1, push: int = 0
    ) -> BuiltMessage:
        message = self.message(spec, run_id=run_id, due_ms=due_ms, attempt=attempt, push=push)
        return BuiltMessage(queue=self.queue(spec), message=message)


class Store:
    """Everything around one database, with a clock set by hand."""

    def __init__(self, database: Database, clock: HandClock) -> None:
        self.database = database
        self.clock = clock
        self.jobs = Jobs(database)
        self.runs = Runs(database)
        self.due = DueIndex(database)
        self.messages = PlainMessages(database.keys.default_queue)
        self.cron = Client(
            NamespaceRecords(jobs=self.jobs, runs=self.runs, due=self.due),
            clock=clock,
            checks=JobChecks(default_timezone="UTC", files=lambda _: None),
            messages=RunMessages(builder=lambda: self.messages),
        )

    def queue(self) -> list[str]:
        """The run ids on the queue, oldest first."""
        return list(self.database.call("LRANGE", self.messages.queue(a_spec()), 0, -1))[::-1]

    def claim(self, run_id: str, token: str = "t1") -> Claim:
        """Claim a run that must be claimable."""
        claim = self.runs.claim(run_id, token=token, now_ms=self.clock.ms, worker="w@host")
        assert isinstance(claim, Claim), claim
        return claim


def a_spec(schedule: Any = "every 1h", *, now: datetime = NOON, **fields: Any) -> JobSpec:
    """A job's spec, with a prompt unless it says otherwise."""
    request = JobRequest(**{"schedule": schedule, "prompt": "p", **fields})
    return define(request, job_id="aaaaaaaaaaaa", now=now, default_timezone="UTC")[0]


def a_job(
    schedule: str = "every 1h", *, now: datetime = NOON, id: str = "a" * 12, **fields: Any
) -> Job:
    """A job that is not stored yet."""
    spec = replaced(a_spec(schedule, now=now, **fields), id=id)
    return Job(spec=spec, next_run_at=spec.compiled().next_after(now))


@contextmanager
def without_threads() -> Iterator[None]:
    """No thread can be started in this block, as where the system has none left."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        yield


def eventually(look: Callable[[], _T], *, seconds: float = 40.0, what: str = "the state") -> _T:
    """Look again and again until it is true, and return it; fail at the deadline."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(0.02)
    return found


def replaced(value: Any, **changes: Any) -> Any:
    """A value with some fields changed."""
    return msgspec.structs.replace(value, **changes)


def server_clock(database: Database) -> ServerClock:
    """The clock that processes use."""
    return ServerClock(database.now_ms)


def messages_of(app: Celery, *, in_tasks: bool = True) -> MessageBuilder:
    """What builds messages for an app, with the default settings and in no namespace."""
    return MessageBuilder(
        app, session=SessionSource.ORIGIN, entries=None, in_tasks=in_tasks, namespace=""
    )


def one_spaced(text: str) -> str:
    """A text without its columns and line ends."""
    return " ".join(text.split())
