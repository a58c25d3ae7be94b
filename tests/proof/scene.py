"""One namespace of a server: what is set up before a child acts in it, and what settles it after.

A scene's clock is set by hand, hours at a time, so that whatever has to wait waits no real time.
The end is judged three times: by the checker, by what is left over in the indexes, and by the
schedules, which must have gone on.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from hermes_celery.beat import Beat
from hermes_celery.cron import Crontab
from hermes_celery.dispatch import Dispatch
from hermes_celery.instant import from_ms
from hermes_celery.job import Job, JobRequest, JobState
from hermes_celery.policy import CatchUp, OnLost, Overlap, Policy
from hermes_celery.store import DueIndex, Jobs, Shards
from tests.proof.acts import (
    KEYS,
    RESCUE_SECONDS,
    Consumer,
    NotedWork,
    celery_app,
    make_beat,
    make_runs,
)
from tests.proof.checker import Verdict, check
from tests.proof.crashing import Point
from tests.proof.history import History, Span, all_records, starts_in
from tests.proof.planted import Plant, open_planted
from tests.proof.zygote import Act, Orders
from tests.support import HandClock

_MAX_ROUNDS = 60
_A_DAY = timedelta(days=1)


class Scene:
    """Everything of one namespace, and the time in it."""

    def __init__(
        self, url: str, starts: Path, *, plant: Plant = Plant.NONE, shards: int = 1
    ) -> None:
        self.url = url
        self.shards = range(shards)
        self.starts = starts
        self.plant = plant
        self.clock = HandClock()
        self.database = open_planted(url, KEYS, plant)
        self.database.call("FLUSHDB")
        self.database.call("SCRIPT", "FLUSH")
        Shards(self.database).set_count(shards)
        self.runs = make_runs(self.database)
        self.cron = Crontab(
            jobs=Jobs(self.database),
            runs=self.runs,
            due=DueIndex(self.database),
            clock=self.clock,
            messages=_messages,
            default_timezone="UTC",
            check_files=lambda _: None,
        )
        self._watched: list[Job] = []
        self._asked: set[str] = set()
        self._consumer = Consumer(self.database, self.runs, NotedWork(starts), self.clock)

    def add(self, schedule: str = "every 1h", **fields: Any) -> Job:
        """A job that the checker will ask for."""
        job = self.cron.add(JobRequest(**{"schedule": schedule, "prompt": "p", **fields}))
        self._watched.append(job)
        return job

    def run(self, job: Job) -> str:
        """Trigger a run that the checker will ask for."""
        run_id = self.cron.run(job.id)
        self._asked.add(run_id)
        return run_id

    def take_messages(self) -> None:
        """Lose every message there is."""
        self.database.call("DEL", KEYS.default_queue)

    def beat_once(self) -> None:
        """Let a beat that nothing happens to do one step."""
        self.end_leases()
        beat = self._beat()
        beat.step()
        beat.stop()

    def orders(self, act: Act, point: Point, **more: Any) -> Orders:
        """What a child is to do here and now; `more` are further fields of the orders."""
        return Orders(
            act=act,
            url=self.url,
            now_ms=self.clock.ms,
            starts=str(self.starts),
            point=point,
            plant=self.plant.value,
            **more,
        )

    def next_hour(self) -> None:
        """Set the clock to the next full hour."""
        self.clock.advance(3600 - self.clock.ms % 3_600_000 / 1000)

    def elect(self) -> None:
        """Another beat takes the leases, whose holder is dead or frozen, and keeps them."""
        self.end_leases()
        for shard in self.shards:
            term = self.database.call("INCR", KEYS.term_of(shard))
            self.database.call("SET", KEYS.lease_of(shard), "successor", "PX", 3_600_000)
            self.database.call("HSET", KEYS.leader_of(shard), "owner", "successor", "term", term)

    def end_leases(self) -> None:
        """Whoever led is heard of no more."""
        self.database.call("DEL", KEYS.beats, *(KEYS.lease_of(shard) for shard in self.shards))

    def settle(self) -> None:
        """Let a beat and a worker that nothing happens to do all there is to do now."""
        self.end_leases()
        beat = self._beat()
        for _ in range(_MAX_ROUNDS):
            beat.step()
            while self._consumer.take_one():
                pass
            if not self._unsettled():
                break
            self.clock.advance(RESCUE_SECONDS)
        beat.stop()

    def _beat(self) -> Beat:
        owner = secrets.token_hex(4)
        return make_beat(self.database, owner=owner, clock=self.clock, plant=self.plant)

    def _unsettled(self) -> bool:
        firsts = [DueIndex(self.database, shard=shard).next_due_ms() for shard in self.shards]
        due = any(first is not None and first <= self.clock.ms for first in firsts)
        return due or any(self.runs.counts().values())

    def history(self) -> History:
        """All that happened until now."""
        return History(
            spans=tuple(self._span(job) for job in self._watched),
            records=all_records(self.runs),
            starts=starts_in(self.starts),
            asked=frozenset(self._asked),
        )

    def _span(self, job: Job) -> Span:
        policy = job.spec.policy
        return Span(
            job_id=job.id,
            schedule=job.spec.compiled(),
            start=from_ms(job.spec.created_ms),
            end=self.cron.now,
            limit=job.spec.repeat_times,
            late_after=_A_DAY if policy.catch_up is CatchUp.ALL else None,
            may_repeat=policy.on_lost is OnLost.RETRY or policy.retries > 0,
        )

    def verdict(self, *, late_after: timedelta) -> Verdict:
        """What the checker says."""
        return check(self.history(), late_after=late_after)

    def leftovers(self) -> list[str]:
        """What should be gone when everything has come to rest."""
        patterns = ("active:*", "held:*", "queued", "heartbeats")
        found = [
            str(key)
            for pattern in patterns
            for key in self.database.client.scan_iter(KEYS.prefix.replace("{", "[{]") + pattern)
        ]
        waiting = self.database.call("LLEN", KEYS.default_queue)
        return found + [f"{waiting} messages"] * bool(waiting)

    def stopped_schedules(self) -> list[str]:
        """The recurring jobs whose schedule does not go on."""
        now = self.cron.now
        return [
            job.name
            for job in (self.cron.show(watched.id) for watched in self._watched)
            if job.spec.repeat_times is None
            and not (job.state is JobState.SCHEDULED and job.next_run_at and job.next_run_at > now)
        ]

    def snapshot(self) -> Mapping[str, object]:
        """Every key with its content.

        Except the hints of which history to trim (what is too old may go, whoever lets it go), and
        which beats live: one that wakes up says so.
        """
        client, left_out = self.database.client, (KEYS.grown, KEYS.beats)
        return {str(k): client.dump(k) for k in client.scan_iter() if k not in left_out}

    def close(self) -> None:
        """Give the connections back."""
        self.database.close()


def _messages() -> Dispatch:
    return Dispatch(celery_app())


def beat_scene(url: str, starts: Path, *, plant: Plant = Plant.NONE, shards: int = 1) -> Scene:
    """A beat's next steps have one of everything to do: each kind of due job and of rescue."""
    scene = Scene(url, starts, plant=plant, shards=shards)
    _due_jobs(scene)
    scene.clock.advance(1)
    # Due a second after the others: planned while the beat waits for them.
    scene.add(name="planned ahead")
    scene.add(name="planned ahead, for the last time", repeat=1)
    busy = [scene.add(name=f"overlap {o}", policy=Policy(overlap=o)) for o in Overlap]
    _rescues(scene)
    scene.clock.advance(58 * 60 - 11)
    # These wait for a worker when their job is due; their messages will be doubled.
    for job in busy:
        scene.run(job)
    scene.clock.advance(120)
    return scene


def _due_jobs(scene: Scene) -> None:
    """Jobs that will be due in an hour, or were in between."""
    scene.add(name="plain")
    scene.add("in 1h", name="once")
    scene.add(name="for the last time", repeat=1)
    scene.add(name="fails", policy=Policy(retries=1))
    scene.add("every 20m", name="catches up with the latest")
    scene.add("every 30m", name="catches up with all", policy=Policy(catch_up=CatchUp.ALL))
    scene.add("every 20m", name="does not catch up", policy=Policy(catch_up=CatchUp.SKIP))
    broken = scene.cron.add(JobRequest(schedule="every 1h", prompt="p", name="broken"))
    scene.database.call("HSET", KEYS.job(broken.id), "spec", "{not json")


def _rescues(scene: Scene) -> None:
    """Runs that somebody will have to care for, of jobs that are not due any more today."""
    scene.run(scene.add("every 1d", name="its message vanished"))
    silent = scene.add("every 1d", name="its worker died")
    again = scene.add("every 1d", name="wants another start", policy=Policy(on_lost=OnLost.RETRY))
    for run_id in (scene.run(silent), scene.run(again)):
        scene.runs.claim(run_id, token="dead", now_ms=scene.clock.ms, worker="w@gone")
    removed = scene.cron.add(JobRequest(schedule="every 1d", prompt="p", name="removed"))
    scene.run(removed)
    scene.cron.remove(removed.id)
    scene.add("in 10s", name="expires", policy=Policy(expires_seconds=60))
    scene.clock.advance(10)
    scene.beat_once()
    scene.take_messages()


def worker_scene(
    url: str, starts: Path, *, policy: Policy, name: str = "works", plant: Plant = Plant.NONE
) -> Scene:
    """One run waits for a worker, and its job has another one held behind it."""
    scene = Scene(url, starts, plant=plant)
    job = scene.add(name=name, policy=policy)
    scene.next_hour()
    scene.beat_once()
    if policy.overlap is Overlap.QUEUE_ONE:
        scene.run(job)
    return scene
