"""Measure how long it takes to build one message of a project's task, beside `apply_async`.

    python -m bench.messages

A plain task's message comes from a template. The message of a task with the project's own code
(here `expires`, which counts from each message) is built by `apply_async` into a channel of its
own. For comparison, `apply_async` is measured with an open producer, into memory and to a Valkey.
`tick` is a leader's work for 200 due jobs: read, plan, write and push. All are measured in turns;
the table has medians in microseconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import msgspec
from celery import Celery
from kombu.connection import Connection

from bench.bed import Bed, fresh_bed
from bench.server import BenchError, valkey
from hermes_celery.celery_app.app import broker_url
from hermes_celery.core.job import Job, JobRequest, JobSpec, new_job_id
from hermes_celery.core.job_checks import define
from hermes_celery.core.policy import Overlap, Policy
from hermes_celery.core.work import TaskCall
from hermes_celery.instant import from_ms
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.store import DueIndex, Jobs, Write
from tests.support import messages_of

PLAIN, OWN_CODE = "bench.plain", "bench.own_code"
RUN_ID = "aaaaaaaaaaaa-20260622T120000Z"
DUE_MS = 1_782_129_600_000
_ROUNDS = 30
_MESSAGES = 200
_TOKEN = 1


def project(broker: str = "memory://") -> Celery:
    """Return a project with a plain task and a task with `expires`."""
    app = Celery("bench", broker=broker, set_as_current=False)
    app.task(_nothing, shared=False, name=PLAIN)
    app.task(_nothing, shared=False, name=OWN_CODE, expires=3600)
    return app


def _nothing(number: int) -> None:
    """Do nothing; the task is published but never executed."""


def spec_of(task: str) -> JobSpec:
    """Return the definition of a job that calls a task every hour."""
    request = JobRequest(
        schedule="every 1h", name=task, task=TaskCall(name=task, args=[1]), timezone="UTC"
    )
    return define(request, job_id="a" * 12, now=from_ms(DUE_MS), default_timezone="UTC")[0]


def building(app: Celery, task: str) -> Callable[[], object]:
    """Return a function that builds one message of a task."""
    dispatch, spec = messages_of(app, in_tasks=False), spec_of(task)
    if task == PLAIN:
        return lambda: dispatch.message(spec, run_id=RUN_ID, due_ms=DUE_MS)
    return lambda: dispatch.build(spec, run_id=RUN_ID, due_ms=DUE_MS)


@contextmanager
def applying(app: Celery, task: str, broker: str = "memory://") -> Iterator[Callable[[], object]]:
    """Yield a function that publishes one message by `apply_async` with an open producer."""
    with Connection(broker) as connection:
        producer = app.amqp.Producer(connection, auto_declare=False)
        yield lambda: app.tasks[task].apply_async((1,), producer=producer)
        connection.default_channel.queue_purge("celery")


class _Ticking:
    """A leader and a server with hourly jobs."""

    def __init__(self, bed: Bed, app: Celery, task: str) -> None:
        self._due_index = DueIndex(bed.database)
        self._messages = messages_of(app, in_tasks=False)
        bed.database.client.set(bed.database.keys.term, _TOKEN)
        spec = spec_of(task)
        jobs = [Job(spec=_named(spec), next_run_at=from_ms(DUE_MS)) for _ in range(_MESSAGES)]
        Jobs(bed.database).write_many([Write(job=job) for job in jobs])

    def seconds(self) -> float:
        """Return the seconds per job of the ticks one hour later."""
        now_ms = self._due_index.next_due_ms() or 0
        began = time.perf_counter()
        left = _MESSAGES
        while left:
            # A tick that builds messages for long ends early, so that the lease can be renewed.
            report = Ticker(self._due_index, self._messages).tick(token=_TOKEN, now_ms=now_ms)
            if not report.dispatched:
                raise BenchError(f"{left} of {_MESSAGES} jobs were not dispatched: {report}")
            left -= report.dispatched
        return (time.perf_counter() - began) / _MESSAGES


def _named(spec: JobSpec) -> JobSpec:
    job_id = new_job_id()
    policy = Policy(overlap=Overlap.ALLOW, max_active=10_000)
    return msgspec.structs.replace(spec, id=job_id, name=job_id, policy=policy)


def _each(work: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        began = time.perf_counter()
        for _ in range(_MESSAGES):
            work()
        return (time.perf_counter() - began) / _MESSAGES

    return seconds


def main() -> None:
    """Measure in turns and print the medians."""
    app = project()
    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        ways = {
            "apply_async into memory": _each(stack.enter_context(applying(app, OWN_CODE))),
            "apply_async to a Valkey": _each(
                stack.enter_context(applying(app, OWN_CODE, broker=broker_url(url)))
            ),
            "a plain task's message": _each(building(app, PLAIN)),
            "a message with the project's code": _each(building(app, OWN_CODE)),
            "tick, plain tasks": _Ticking(stack.enter_context(fresh_bed()), app, PLAIN).seconds,
            "tick, with the project's code": _Ticking(
                stack.enter_context(fresh_bed()), app, OWN_CODE
            ).seconds,
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(_ROUNDS):
            for name, seconds in ways.items():
                taken[name].append(seconds())
    print(f"us per message, medians of {_ROUNDS} rounds of {_MESSAGES}")
    for name, values in taken.items():
        print(f"{name:<34}{statistics.median(values) * 1e6:9.1f}")


if __name__ == "__main__":
    main()
