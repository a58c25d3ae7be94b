"""Move jobs from one namespace to another on the same server.

One atomic step moves a job with its unfinished runs; before it, the finished runs move page by
page. If the mover is killed in between, the next one continues: until that step the job stays where
it was. A run's id derives from its job's id, so it stays the same, and a message on a Celery queue
finds its run wherever the job is.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from enum import StrEnum

from hermes_celery.core.job import Job
from hermes_celery.store.database import Database
from hermes_celery.store.due_index import DueIndex
from hermes_celery.store.jobs import name_entry

#: Runs per page: each has eight keys, so a call takes the server about a millisecond.
_PAGE = 100
#: How often a move is tried again because the job has changed.
_TRIES = 5
#: How long a paused remainder stays behind for programs of 0.1.0 that come back.
_KEPT_SECONDS = 30 * 86_400


class Moved(StrEnum):
    """The outcome of a move."""

    OK = "ok"
    #: A worker executes one of its runs; try again when that run is over.
    RUNNING = "running"
    #: The target namespace has this job already; it was removed here.
    THERE = "there"
    #: The job was changed during every try.
    BUSY = "busy"


class Mover:
    """Moves jobs of one namespace to another."""

    def __init__(self, source: Database, target: Database) -> None:
        self._source = source
        self._target = target

    def move(self, job: Job, *, now_ms: int) -> Moved:
        """Move a job with its runs, incidents and index entries.

        Raises RecordBroken when one of its keys is broken; the job stays then.
        """
        if self._is_running(job.id, now_ms=now_ms):
            return Moved.RUNNING
        for _ in range(_TRIES):
            self._move_history(job.id)
            answer = Moved(self._step(job, now_ms=now_ms))
            if answer is not Moved.BUSY:
                return answer
            self._source.forget_shards()
            self._target.forget_shards()
        return Moved.BUSY

    def follow_switch(self, *, now_ms: int) -> bool:
        """Pause all jobs in the target if they are paused in the source.

        Returns whether it did so.
        """
        here, there = DueIndex(self._source).switch(), DueIndex(self._target)
        if here.paused_ms is None or there.switch().paused_ms is not None:
            return False
        there.pause_all(note=here.note, now_ms=now_ms)
        return True

    def _is_running(self, job_id: str, *, now_ms: int) -> bool:
        keys = self._source.keys
        active = self._source.hash(keys.active(job_id))
        running = [run_id for run_id, word in active.items() if word == "running"]
        if not running:
            return False
        scores = self._source.call("ZMSCORE", keys.heartbeats, *running)
        return any(score is not None and float(score) > now_ms for score in scores)

    def _move_history(self, job_id: str) -> None:
        here, there = self._source.keys, self._target.keys
        indexes = [
            index for keys in (here, there)
            for index in (keys.runs, keys.job_runs, keys.deliveries, keys.grown)
        ]  # fmt: skip
        for ids in self._pages(job_id):
            keys = [*indexes, *(key for run_id in ids for key in self._run_keys(run_id))]
            self._source.run_listed("move_runs", keys=keys, args=[job_id, *ids])

    def _pages(self, job_id: str) -> Iterator[Sequence[str]]:
        ids = self._run_ids(job_id)
        return (ids[start : start + _PAGE] for start in range(0, len(ids), _PAGE))

    def _run_ids(self, job_id: str) -> list[str]:
        index = self._source.keys.job_runs
        return list(self._source.call("ZRANGEBYLEX", index, f"[{job_id}-", f"[{job_id}."))

    def _run_keys(self, run_id: str) -> list[str]:
        return [
            key
            for keys in (self._source.keys, self._target.keys)
            for key in (
                keys.run(run_id), keys.output(run_id), keys.stderr(run_id), keys.delivery(run_id)
            )
        ]  # fmt: skip

    def _step(self, job: Job, *, now_ms: int) -> str:
        runs = self._run_ids(job.id)
        here, there = self._source.keys, self._target.keys
        incidents = sorted(self._source.call("SMEMBERS", here.troubles(job.id)))
        keys = [
            *self._keys_of(self._source, job),
            *self._keys_of(self._target, job),
            there.mark,
            *(key for run_id in runs for key in self._run_keys(run_id)),
            *(key for one in incidents for key in (here.incident(one), there.incident(one))),
        ]
        args: list[str | int | bytes] = [
            job.id,
            job.revision,
            name_entry(job),
            now_ms,
            there.wake,
            self._source.shards_as_stored,
            self._target.shards_as_stored,
            here.default_queue,
            "" if job.spec.managed_by is None else "1",
            f"moved to namespace {there.namespace}",
            _KEPT_SECONDS,
            secrets.token_hex(8),
            len(runs),
            *runs,
            *incidents,
        ]
        return str(self._source.run_listed("move_job", keys=keys, args=args))

    def _keys_of(self, database: Database, job: Job) -> list[str]:
        keys = database.keys
        return [
            keys.job(job.id),
            database.due_key(job.id),
            keys.jobs,
            keys.names,
            keys.completed,
            keys.grown,
            keys.shards,
            keys.active(job.id),
            keys.held(job.id),
            keys.runs,
            keys.job_runs,
            keys.queued,
            keys.heartbeats,
            keys.deliveries,
            keys.incidents,
            keys.troubles(job.id),
            keys.managed(job.spec.managed_by or ""),
        ]


class Neighbours:
    """The list, in a shared namespace, of projects that have namespaces of their own."""

    def __init__(self, shared: Database, *, namespace: str) -> None:
        """`namespace` is the project's own namespace."""
        self._shared = shared
        self._namespace = namespace

    def enter(self) -> bool:
        """Add the project to the list; return whether its jobs have moved out of the shared one."""
        key = self._shared.keys.projects
        self._shared.call("HSETNX", key, self._namespace, "")
        return bool(self._shared.call("HGET", key, self._namespace))

    def note_moved(self) -> None:
        """Record that jobs of the project have moved out of the shared namespace."""
        self._shared.call("HSET", self._shared.keys.projects, self._namespace, "moved")


def namespaces_beside(shared: Database) -> list[str]:
    """Return the namespaces of the projects that a shared namespace lists."""
    return sorted(shared.hash(shared.keys.projects))
