"""Edit, pause, resume and trigger jobs while everything breaks, and remember each change.

Every change ends one span of a job and may begin another. A change is compare-and-set, so the job
as read before the change shows how far its schedule had certainly come. Occurrences due before its
`next_run_at` were dispatched and must be on record. The change may have overtaken later ones.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from hermes_celery.client import Client
from hermes_celery.core.job import Job, JobRequest
from hermes_celery.core.policy import CatchUp, OnLost, Overlap, Policy
from hermes_celery.errors import Conflict
from hermes_celery.instant import from_ms
from tests.proof.history import Span
from tests.proof.soak_disturbances import Disturbances
from tests.proof.soak_processes import FAILS

_MOMENT = timedelta(milliseconds=1)
#: A token budget that no run exceeds.
_BUDGET = 1_000_000_000
#: Fields of a request for each kind of recurring job; jobs take the kinds in turn.
_KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"policy": Policy(on_lost=OnLost.RETRY, retry_wait_seconds=1)},
    {"policy": Policy(catch_up=CatchUp.ALL)},
    {"policy": Policy(overlap=Overlap.ALLOW)},
    {"policy": Policy(overlap=Overlap.QUEUE_ONE)},
    {"name": FAILS, "policy": Policy(retries=1, retry_wait_seconds=1)},
    {"group": "soak", "group_limit": 3},
    {"token_budget": _BUDGET},
    {"deliver": "URL"},
)
_SCHEDULES = ("every 1s", "every 2s", "every 3s")


class ConcurrentEditors:
    """The people who change the jobs of one namespace."""

    def __init__(self, cron: Client, *, dice: random.Random, deliver_url: str) -> None:
        self._cron = cron
        self._dice = dice
        self._deliver_url = deliver_url
        self._open: dict[str, Job] = {}
        self._paused: list[str] = []
        self.spans: list[Span] = []
        self.asked: set[str] = set()
        self.edits = 0
        #: Ids of the jobs whose runs are delivered; below, token budgets by job id.
        self.delivering: set[str] = set()
        self.budgets: dict[str, int] = {}

    @property
    def enabled(self) -> tuple[str, ...]:
        """The ids of the jobs that should run."""
        return tuple(self._open)

    def add_jobs(self, count: int) -> None:
        """Add `count` jobs, of every kind in turn, each due every second."""
        for number in range(count):
            fields = {"name": "works", **_KINDS[number % len(_KINDS)]}
            if "deliver" in fields:
                fields["deliver"] = self._deliver_url
            job = self._cron.add(JobRequest(schedule="every 1s", prompt="p", **fields))
            self._open[job.id] = job
            if job.spec.token_budget is not None:
                self.budgets[job.id] = job.spec.token_budget
            if "deliver" in fields:
                self.delivering.add(job.id)

    def forget(self, job_id: str) -> None:
        """Stop judging this job: it was damaged in a way that may cost it runs."""
        self._open.pop(job_id, None)
        self._paused = [one for one in self._paused if one != job_id]
        self.spans = [span for span in self.spans if span.job_id != job_id]
        self.asked = {run_id for run_id in self.asked if not run_id.startswith(job_id)}
        self.delivering.discard(job_id)
        self.budgets.pop(job_id, None)

    def do_something(self) -> None:
        """Make one random change to one job; a conflict counts as none."""
        deed = self._dice.choice(
            (self._reschedule, self._reword, self._pause, self._resume, self._trigger)
        )
        try:
            deed(self._dice.choice(list(self._open)))
        except Conflict:
            return
        self.edits += 1

    def stop_everything(self) -> None:
        """End the observation: pause every job."""
        for job_id in list(self._open):
            self._pause(job_id)

    def _reschedule(self, job_id: str) -> None:
        changes = {"schedule": self._dice.choice(_SCHEDULES)}
        self._replace(job_id, lambda job: self._edit(job, changes))

    def _reword(self, job_id: str) -> None:
        """Change the prompt only: the schedule goes on, so the span does too."""
        job = self._cron.show(job_id)
        self._edit(job, {"prompt": secrets.token_hex(4)})

    def _edit(self, job: Job, changes: dict[str, str]) -> Job:
        return self._cron.edit(job.id, changes, expected_revision=job.revision)

    def _pause(self, job_id: str) -> None:
        before = self._cron.show(job_id)
        self._cron.pause(job_id)
        self._close(before)
        self._paused.append(job_id)

    def _resume(self, _: str) -> None:
        if self._paused:
            job = self._cron.resume(self._paused.pop())
            self._open[job.id] = job

    def _trigger(self, job_id: str) -> None:
        """Trigger the job twice with one key, as a double click does."""
        key = secrets.token_hex(8)
        first, second = (self._cron.run(job_id, key=key) for _ in range(2))
        assert first == second, f"one key made two runs: {first}, {second}"
        self.asked.add(first)

    def _replace(self, job_id: str, change: Callable[[Job], Job]) -> None:
        before = self._cron.show(job_id)
        after = change(before)
        self._close(before)
        self._open[job_id] = after

    def _close(self, before: Job) -> None:
        """End the span of a job that was read as `before` and changed afterwards."""
        opened = self._open.pop(before.id)
        assert before.next_run_at is not None
        self.spans.append(_span(opened, end=self._cron.now, settled=before.next_run_at - _MOMENT))


def _span(job: Job, *, end: datetime, settled: datetime) -> Span:
    policy = job.spec.policy
    return Span(
        job_id=job.id,
        schedule=job.spec.compiled(),
        start=from_ms(job.spec.anchor_ms),
        end=end,
        settled_until=settled,
        may_repeat=policy.on_lost is OnLost.RETRY or policy.retries > 0,
    )


class Figures(Disturbances, kw_only=True):
    """Counts of the faults in processes, network and stored data."""

    cuts: int = 0
    swallowings: int = 0
    #: Times that CLIENT PAUSE kept the server from answering.
    pauses: int = 0
    #: Keys that got another type; below, unreadable messages that were pushed.
    spoilt: int = 0
    letters: int = 0
    #: Server times at which a leader was killed or frozen, Unix ms.
    leaderless_ms: list[int] = msgspec.field(default_factory=list)
    #: Server times of other faults that delay dispatching, Unix ms.
    disturbed_ms: list[int] = msgspec.field(default_factory=list)
