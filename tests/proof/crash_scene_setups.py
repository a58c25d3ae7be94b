"""What is set up before a child acts: one function for each kind of scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hermes_celery.core.job import Job, JobRequest
from hermes_celery.core.policy import CatchUp, OnLost, Overlap, Policy
from hermes_celery.store import Claim, RunLimits
from tests.proof.crash_child import HEARTBEAT_TIMEOUT_MS, KEYS, LATE
from tests.proof.crash_scene import Scene
from tests.proof.delivery_receipts import BUSY
from tests.proof.known_bugs import KnownBug
from tests.proof.limits_check import TOKENS

_GROUP = "g"


def beat_scene(
    url: str, starts: Path, *, plant: KnownBug = KnownBug.NONE, shards: int = 1
) -> Scene:
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


def late_scene(url: str, starts: Path, *, plant: KnownBug = KnownBug.NONE) -> Scene:
    """Messages with code of the project's in them: due now, held back, vanished, to run again."""
    scene = Scene(url, starts, plant=plant)

    def late(schedule: str = "every 1h", **fields: Any) -> Job:
        return scene.add(schedule, prompt=None, task=LATE, **fields)

    late(name="plain")
    late("in 1h", name="once")
    late("every 30m", name="catches up with all", policy=Policy(catch_up=CatchUp.ALL))
    scene.add(name="beside them")
    busy = [late(name=f"overlap {o}", policy=Policy(overlap=o)) for o in Overlap]
    scene.run(late("every 1d", name="its message vanished"))
    again = late("every 1d", name="wants another start", policy=Policy(on_lost=OnLost.RETRY))
    scene.runs.claim(scene.run(again), token="dead", now_ms=scene.clock.ms, worker="w@gone")
    scene.beat_once()
    scene.take_messages()
    scene.clock.advance(58 * 60)
    for job in busy:
        scene.run(job)
    scene.clock.advance(120)
    return scene


def worker_scene(
    url: str, starts: Path, *, policy: Policy, name: str = "works", plant: KnownBug = KnownBug.NONE
) -> Scene:
    """One run waits for a worker, and its job has another one held behind it."""
    scene = Scene(url, starts, plant=plant)
    job = scene.add(name=name, policy=policy)
    scene.next_hour()
    scene.beat_once()
    if policy.overlap is Overlap.QUEUE_ONE:
        scene.run(job)
    return scene


def delivery_scene(url: str, starts: Path, *, plant: KnownBug = KnownBug.NONE) -> Scene:
    """A run waits for a worker; its output goes to two targets, one of them busy at first."""
    scene = Scene(url, starts, plant=plant, delivers=True)
    scene.add(name="tells", deliver=f"json://{BUSY}/x, json://free/x")
    scene.next_hour()
    scene.beat_once()
    return scene


def delivered_scene(url: str, starts: Path, *, plant: KnownBug = KnownBug.NONE) -> Scene:
    """The same, and the run has ended: its delivery waits for somebody to plan and send it."""
    scene = delivery_scene(url, starts, plant=plant)
    scene.perform()
    return scene


def due_delivery_scene(url: str, starts: Path) -> Scene:
    """The message of a delivery vanished: a beat has to push it again."""
    scene = delivered_scene(url, starts)
    scene.database.call("DEL", KEYS.delivery_queue)
    scene.clock.advance(120)
    return scene


def group_scene(url: str, starts: Path, *, full: bool, plant: KnownBug = KnownBug.NONE) -> Scene:
    """Two runs of one group, which takes one at a time; it is full if a dead worker's run is in."""
    scene = Scene(url, starts, plant=plant)
    shared: dict[str, Any] = {"group": _GROUP, "group_limit": 1}
    for name in ("first", "second"):
        scene.add(name=name, **shared)
    scene.next_hour()
    scene.beat_once()
    if full:
        job = scene.add(
            "every 1d", name="in the group", policy=Policy(on_lost=OnLost.RETRY), **shared
        )
        run_id, now_ms = scene.run(job), scene.clock.ms
        claim = scene.runs.claim(run_id, token="dead", now_ms=now_ms, worker="w@gone")
        assert isinstance(claim, Claim)
        places = RunLimits(scene.database, heartbeat_timeout_ms=HEARTBEAT_TIMEOUT_MS)
        assert places.enter(claim, now_ms=now_ms) == "ok"
    return scene


def budget_scene(url: str, starts: Path, *, plant: KnownBug = KnownBug.NONE) -> Scene:
    """One run spends its job's budget, one spends a part of it, and one is tried twice."""
    scene = Scene(url, starts, plant=plant)
    scene.add(name="spends all", token_budget=TOKENS)
    scene.add(name="spends some", token_budget=100 * TOKENS)
    scene.add(name="fails", token_budget=100 * TOKENS, policy=Policy(retries=1))
    scene.next_hour()
    scene.beat_once()
    return scene


def neighbours_scene(url: str, starts: Path) -> Scene:
    """Two runs of two jobs wait for a worker."""
    scene = Scene(url, starts)
    for name in ("one", "other"):
        scene.add(name=name)
    scene.next_hour()
    scene.beat_once()
    return scene
