"""One namespace of a server: set it up, let a child act in it, settle it, judge it.

The clock is set by hand, hours at a time, so no wait takes real time. Four things are judged at
the end: the history (by the checker), leftovers in the indexes, schedules that must have gone on,
and deliveries, groups and budgets where the scene has them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from hermes_celery.celery_app.messages import MessageBuilder
from hermes_celery.client import Client, JobChecks, NamespaceRecords, RunMessages
from hermes_celery.core.job import Job, JobRequest, JobState
from hermes_celery.core.policy import CatchUp, OnLost
from hermes_celery.core.run import Run, due_ms_of
from hermes_celery.instant import from_ms
from hermes_celery.scheduling.beat import Beat
from hermes_celery.store import DueIndex, Jobs, Shards
from tests.proof.crash_child import (
    KEYS,
    RESCUE_SECONDS,
    Consumer,
    NotedWork,
    Postman,
    celery_app,
    make_beat,
    make_runs,
)
from tests.proof.crashing_connections import Point
from tests.proof.delivery_receipts import delivery_faults, far_end, receipts_in
from tests.proof.fork_server import Act, Orders
from tests.proof.history import History, Span, starts_in
from tests.proof.history_checker import Verdict, check
from tests.proof.known_bugs import KnownBug, open_planted
from tests.proof.limits_check import Crowds, budget_faults, crowds_in
from tests.support import HandClock, messages_of

_MAX_ROUNDS = 60
_A_DAY = timedelta(days=1)


class Scene:
    """One namespace, its clock, and the beat and worker that settle it."""

    def __init__(
        self,
        url: str,
        starts: Path,
        *,
        plant: KnownBug = KnownBug.NONE,
        shards: int = 1,
        delivers: bool = False,
    ) -> None:
        """Empty the server; with `delivers`, output is delivered and beats push due deliveries."""
        self.url = url
        self.shards = range(shards)
        self.starts = starts
        self.plant = plant
        self.delivers = delivers
        self.clock = HandClock()
        self.database = open_planted(url, KEYS, plant)
        self.database.call("FLUSHDB")
        self.database.call("SCRIPT", "FLUSH")
        Shards(self.database).set_count(shards)
        self.runs = make_runs(self.database)
        self.cron = Client(
            NamespaceRecords(jobs=Jobs(self.database), runs=self.runs, due=DueIndex(self.database)),
            clock=self.clock,
            checks=JobChecks(default_timezone="UTC", files=lambda _: None),
            messages=RunMessages(builder=_messages),
        )
        self._watched: list[Job] = []
        self._asked: set[str] = set()
        self._crowds = Crowds.of(self.database, url, starts)
        work = NotedWork(starts, crowds=self._crowds, clock=self.clock)
        self._consumer = Consumer(self.database, self.runs, work, self.clock, delivers=delivers)
        self._postman = Postman(self.database, self.clock, starts)

    def add(self, schedule: str = "every 1h", **fields: Any) -> Job:
        """Add a job whose occurrences the checker requires."""
        job = self.cron.add(JobRequest(**{"schedule": schedule, "prompt": "p", **fields}))
        self._watched.append(job)
        return job

    def run(self, job: Job) -> str:
        """Trigger a run that the checker requires."""
        run_id = self.cron.run(job.id)
        self._asked.add(run_id)
        return run_id

    def perform(self) -> None:
        """Perform all waiting runs in an undisturbed worker, and deliver nothing."""
        while self._consumer.take_one():
            pass

    def take_messages(self) -> None:
        """Lose every message on the default queue."""
        self.database.call("DEL", KEYS.default_queue)

    def beat_once(self) -> None:
        """Let an undisturbed beat do one step."""
        self.end_leases()
        beat = self._beat()
        beat.step()
        beat.stop()

    def orders(self, act: Act, point: Point, **more: Any) -> Orders:
        """Return a child's orders for here and now; `more` are further fields of them."""
        return Orders(
            act=act,
            url=self.url,
            now_ms=self.clock.ms,
            starts=str(self.starts),
            point=point,
            plant=self.plant.value,
            delivers=self.delivers,
            **more,
        )

    def next_hour(self) -> None:
        """Set the clock to the next full hour."""
        self.clock.advance(3600 - self.clock.ms % 3_600_000 / 1000)

    def elect(self) -> None:
        """Let another beat take the leases, whose holder is dead or frozen, and keep them."""
        self.end_leases()
        for shard in self.shards:
            term = self.database.call("INCR", KEYS.term_of(shard))
            self.database.call("SET", KEYS.lease_of(shard), "successor", "PX", 3_600_000)
            self.database.call("HSET", KEYS.leader_of(shard), "owner", "successor", "term", term)

    def end_leases(self) -> None:
        """End all leases and forget the beats, as if the leaders had fallen silent."""
        self.database.call("DEL", KEYS.beats, *(KEYS.lease_of(shard) for shard in self.shards))

    def settle(self) -> None:
        """Let an undisturbed beat and worker do everything that is due now."""
        self.end_leases()
        beat = self._beat()
        for _ in range(_MAX_ROUNDS):
            beat.step()
            self.perform()
            while self.delivers and self._postman.take_one():
                pass
            if not self._unsettled():
                break
            self.clock.advance(RESCUE_SECONDS)
        beat.stop()

    def _beat(self) -> Beat:
        owner = secrets.token_hex(4)
        return make_beat(
            self.database, owner=owner, clock=self.clock, plant=self.plant, delivers=self.delivers
        )

    def _unsettled(self) -> bool:
        firsts = [DueIndex(self.database, shard=shard).next_due_ms() for shard in self.shards]
        due = any(first is not None and first <= self.clock.ms for first in firsts)
        delivering = self.delivers and self.database.call("ZCARD", KEYS.deliveries) > 0
        return due or delivering or any(self.runs.counts().values())

    def history(self, *, without: str = "") -> History:
        """Return the history until now; the job `without` is left out."""
        return History(
            spans=tuple(self._span(job) for job in self._watched if job.id != without),
            records=self._records(without=without),
            starts=tuple(s for s in starts_in(self.starts) if s.run_id[:12] != (without or None)),
            asked=frozenset(run_id for run_id in self._asked if run_id[:12] != (without or None)),
        )

    def _records(self, *, without: str) -> tuple[Run, ...]:
        ids = self.database.call("ZRANGE", KEYS.runs, 0, -1)
        return tuple(self.runs.get(run_id) for run_id in ids if run_id[:12] != without)

    def _span(self, job: Job) -> Span:
        policy = job.spec.policy
        paused_at = self.cron.show(job.id).paused_at if job.spec.token_budget else None
        return Span(
            job_id=job.id,
            schedule=job.spec.compiled(),
            start=from_ms(job.spec.created_ms),
            end=paused_at or self.cron.now,
            limit=job.spec.repeat_times,
            late_after=_A_DAY if policy.catch_up is CatchUp.ALL else None,
            may_repeat=policy.on_lost is OnLost.RETRY or policy.retries > 0,
        )

    def verdict(self, *, late_after: timedelta, without: str = "") -> Verdict:
        """Return the checker's verdict."""
        return check(self.history(without=without), late_after=late_after)

    def leftovers(self, *, without: str = "") -> list[str]:
        """Return the keys, entries and messages that should be gone when everything is at rest."""
        found = [key for pattern in ("active:*", "held:*") for key in self._keys_like(pattern)]
        entries = [
            *self.database.call("ZRANGE", KEYS.queued, 0, -1),
            *self.database.call("ZRANGE", KEYS.heartbeats, 0, -1),
        ]
        for group in self._keys_like("group:*"):
            if without not in group or not without:
                inside = self.database.call("ZRANGEBYSCORE", group, f"({self.clock.ms}", "+inf")
                entries += inside
        if self.delivers:
            entries += self.database.call("ZRANGE", KEYS.deliveries, 0, -1)
        waiting = self.database.call("LLEN", KEYS.default_queue)
        kept = [one for one in (*found, *entries) if not without or without not in one]
        return kept + [f"{waiting} messages"] * bool(waiting)

    def _keys_like(self, pattern: str) -> list[str]:
        prefix = KEYS.prefix.replace("{", "[{]")
        return [str(key) for key in self.database.client.scan_iter(prefix + pattern, count=1000)]

    def stopped_schedules(self, *, without: str = "") -> list[str]:
        """Return the recurring jobs whose schedule stopped although no budget is spent."""
        jobs = [self.cron.show(watched.id) for watched in self._watched if watched.id != without]
        return [
            job.name for job in jobs if job.spec.repeat_times is None and not self._goes_on(job)
        ]

    def _goes_on(self, job: Job) -> bool:
        if job.spec.token_budget and job.state is JobState.PAUSED:
            return True
        is_planned = job.next_run_at is not None and job.next_run_at > self.cron.now
        return job.state is JobState.SCHEDULED and is_planned

    def other_faults(self, *, without: str = "", most_messages: int) -> Iterator[str]:
        """Yield the faults in deliveries, groups and budgets.

        A delivery may reach its target at most `most_messages` times.
        """
        runs = self._records(without=without)
        jobs = [job for job in self._watched if job.id != without]
        yield from delivery_faults(
            runs,
            receipts_in(far_end(self.starts)),
            targets={job.id: _hosts(job.spec.deliver) for job in jobs} if self.delivers else {},
            most=most_messages,
        )
        yield from crowds_in(self.starts)
        budgets = {job.id: job.spec.token_budget for job in jobs if job.spec.token_budget}
        yield from budget_faults(runs, budgets, self._hashes(budgets))

    def _hashes(self, job_ids: Iterable[str]) -> dict[str, dict[str, str]]:
        return {i: self.database.client.hgetall(KEYS.job(i)) for i in job_ids}

    def has_come_back(self, job_id: str) -> bool:
        """Return whether a job ran within the last hour, or its record says why it did not."""
        begun_ms = self.clock.ms - 3_600_000
        starts = [s.run_id for s in starts_in(self.starts) if s.run_id.startswith(job_id)]
        if any(due_ms_of(run_id) > begun_ms for run_id in starts):
            return True
        fields = self._hashes([job_id])[job_id]
        return fields.get("state") not in (None, "scheduled") and bool(fields)

    def snapshot(self) -> Mapping[str, object]:
        """Return every key with its content.

        Three things are left out, because a resumed process may change them: the hints of which
        history to trim, the list of living beats, and expired places in groups.
        """
        client, left_out = self.database.client, (KEYS.grown, KEYS.beats)
        found = {str(k): client.dump(k) for k in client.scan_iter(count=1000) if k not in left_out}
        for group in self._keys_like("group:*"):
            found[group] = self.database.call("ZRANGEBYSCORE", group, f"({self.clock.ms}", "+inf")
        return {key: content for key, content in found.items() if content}

    def close(self) -> None:
        """Close the connections."""
        self._crowds.close()
        self.database.close()


def _hosts(deliver: str) -> tuple[str, ...]:
    """Return the hosts of the URLs that a job delivers to."""
    urls = deliver.split(",") if "://" in deliver else []
    return tuple(url.strip().partition("://")[2].partition("/")[0] for url in urls)


def _messages() -> MessageBuilder:
    return messages_of(celery_app())
