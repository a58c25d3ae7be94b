"""The starting states of scenes: one function for each kind."""

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
    """Make a scene in which a beat finds every kind of due job and of rescue."""
    scene = Scene(url, starts, plant=plant, shards=shards)
    _due_jobs(scene)
    scene.clock.advance(1)
    # Due a second after the others, so the beat plans them ahead.
    scene.add(name="planned ahead")
    scene.add(name="planned ahead, for the last time", repeat=1)
    busy = [scene.add(name=f"overlap {o}", policy=Policy(overlap=o)) for o in Overlap]
    _rescues(scene)
    scene.clock.advance(58 * 60 - 11)
    # These runs still wait for a worker when their job is due; their messages will be pushed twice.
    for job in busy:
        scene.run(job)
    scene.clock.advance(120)
    return scene


def _due_jobs(scene: Scene) -> None:
    """Add jobs that are due within the next hour."""
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
    """Add runs that need a rescue, of jobs that are not due again today."""
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
    """Make a scene of runs whose messages the project's code builds.

    They are due now, held back, vanished, or to be run again.
    """
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
    """Make a scene in which one run waits for a worker.

    With `Overlap.QUEUE_ONE` its job has another run held back behind it.
    """
    scene = Scene(url, starts, plant=plant)
    job = scene.add(name=name, policy=policy)
    scene.next_hour()
    scene.beat_once()
    if policy.overlap is Overlap.QUEUE_ONE:
        scene.run(job)
    return scene


def delivery_scene(url: str, starts: Path, *, plant: KnownBug = KnownBug.NONE) -> Scene:
    """Make a scene with a waiting run whose output goes to two targets, one busy at first."""
    scene = Scene(url, starts, plant=plant, delivers=True)
    scene.add(name="tells", deliver=f"json://{BUSY}/x, json://free/x")
    scene.next_hour()
    scene.beat_once()
    return scene


def delivered_scene(url: str, starts: Path, *, plant: KnownBug = KnownBug.NONE) -> Scene:
    """Make the same scene after its run: the delivery waits to be planned and sent."""
    scene = delivery_scene(url, starts, plant=plant)
    scene.perform()
    return scene


def due_delivery_scene(url: str, starts: Path) -> Scene:
    """Make a scene in which a delivery's message vanished and a beat has to push it again."""
    scene = delivered_scene(url, starts)
    scene.database.call("DEL", KEYS.delivery_queue)
    scene.clock.advance(120)
    return scene


def group_scene(url: str, starts: Path, *, full: bool, plant: KnownBug = KnownBug.NONE) -> Scene:
    """Make a scene with two runs of one group that takes one at a time.

    With `full`, a dead worker's run holds the only place.
    """
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
    """Make a scene with three runs: one spends its job's budget, one a part, one is tried twice."""
    scene = Scene(url, starts, plant=plant)
    scene.add(name="spends all", token_budget=TOKENS)
    scene.add(name="spends some", token_budget=100 * TOKENS)
    scene.add(name="fails", token_budget=100 * TOKENS, policy=Policy(retries=1))
    scene.next_hour()
    scene.beat_once()
    return scene


def neighbours_scene(url: str, starts: Path) -> Scene:
    """Make a scene in which two runs of two jobs wait for a worker."""
    scene = Scene(url, starts)
    for name in ("one", "other"):
        scene.add(name=name)
    scene.next_hour()
    scene.beat_once()
    return scene
