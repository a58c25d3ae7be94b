"""Helpers for all tests: a hand-set clock, plain messages, recorded cases, waiting."""

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
    """Return the recorded facts of Hermes' cron in one area."""
    with (DATA / "cases" / "hermes.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = [row for row in rows if row["area"] == area]
    assert found, f"no case has the area {area!r}"
    return found


class HandClock:
    """A clock that stands still until the test sets it."""

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
    """A message builder without Celery: each message is the run's id."""

    def __init__(self, queue: str) -> None:
        self._queue = queue

    def queue(self, spec: JobSpec) -> str:
        return self._queue

    def runs_again(self, spec: JobSpec) -> bool:
        """Return False: without Celery no task is known."""
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
    """The collaborators around one database: jobs, runs, due index, client, a hand-set clock."""

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
        """Return the run ids on the queue, oldest first."""
        return list(self.database.call("LRANGE", self.messages.queue(a_spec()), 0, -1))[::-1]

    def claim(self, run_id: str, token: str = "t1") -> Claim:
        """Claim a run; fail the test if it cannot be claimed."""
        claim = self.runs.claim(run_id, token=token, now_ms=self.clock.ms, worker="w@host")
        assert isinstance(claim, Claim), claim
        return claim


def a_spec(schedule: Any = "every 1h", *, now: datetime = NOON, **fields: Any) -> JobSpec:
    """Return a job's spec, with a prompt unless `fields` name another kind of work."""
    request = JobRequest(**{"schedule": schedule, "prompt": "p", **fields})
    return define(request, job_id="aaaaaaaaaaaa", now=now, default_timezone="UTC")[0]


def a_job(
    schedule: str = "every 1h", *, now: datetime = NOON, id: str = "a" * 12, **fields: Any
) -> Job:
    """Return a job that is not stored yet."""
    spec = replaced(a_spec(schedule, now=now, **fields), id=id)
    return Job(spec=spec, next_run_at=spec.compiled().next_after(now))


@contextmanager
def without_threads() -> Iterator[None]:
    """Make every thread start fail in this block, as on a system that has no threads left."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        yield


def eventually(look: Callable[[], _T], *, seconds: float = 40.0, what: str = "the state") -> _T:
    """Poll `look` until its result is true, and return that result; fail at the deadline."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(0.02)
    return found


def replaced(value: Any, **changes: Any) -> Any:
    """Return a copy of a value with some fields changed."""
    return msgspec.structs.replace(value, **changes)


def server_clock(database: Database) -> ServerClock:
    """Return the clock that production processes use."""
    return ServerClock(database.now_ms)


def messages_of(app: Celery, *, in_tasks: bool = True) -> MessageBuilder:
    """Return an app's message builder with the default settings and without a namespace."""
    return MessageBuilder(
        app, session=SessionSource.ORIGIN, entries=None, in_tasks=in_tasks, namespace=""
    )


def one_spaced(text: str) -> str:
    """Return a text with all runs of white space collapsed into single spaces."""
    return " ".join(text.split())
