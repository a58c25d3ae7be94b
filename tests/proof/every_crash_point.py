"""Visit all points of an act, one scene each; settle and judge what the child left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from typing import Any

from tests.proof.crash_child import HEARTBEAT_TIMEOUT_MS, KEYS, RESCUE_SECONDS
from tests.proof.crash_scene import Scene
from tests.proof.crashing_connections import NO_KEY, Fate, Moment, Point, spoilt_job
from tests.proof.fork_server import Act, Ending, ForkServer, Report, Resume
from tests.proof.history_checker import Verdict

#: Whether spoilt keys are repaired, so that the spoilt job is judged too.
VICTIMS_COME_BACK = False
#: An act that makes more calls does not end.
_MOST_CALLS = 500
#: A worker frozen for this long has missed its heartbeats.
_SLEEP_SECONDS = HEARTBEAT_TIMEOUT_MS / 1000 + 1


def points(fate: Fate) -> Iterator[Point]:
    """Yield the points before and after the first call, the second, and so on."""
    for call in count(1):
        assert call < _MOST_CALLS, "the act makes calls for ever"
        for moment in Moment:
            yield Point(call=call, moment=moment, fate=fate)


class Enumeration:
    """Visits every point of one act with one fate."""

    def __init__(
        self,
        fork_server: ForkServer,
        *,
        act: Act,
        fate: Fate,
        make_scene: Callable[[], Scene],
        late_after: timedelta,
        **orders: Any,
    ) -> None:
        """Take the act and the fate; `orders` are further fields of the child's orders."""
        self._fork_server = fork_server
        self._act = act
        self._fate = fate
        self._make_scene = make_scene
        self._late_after = late_after
        self._orders = orders

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield for every point its call and the faults found afterwards ("" if there are none).

        The last one is the undisturbed act.
        """
        for point in points(self._fate):
            scene = self._make_scene()
            report = self._fork_server.run(scene.orders(self._act, point, **self._orders))
            problems = list(self._aftermath(scene, report))
            scene.close()
            if report.ending is Ending.EXITED:
                yield "undisturbed", "\n".join(problems)
                return
            yield f"call {point.call}, {report.call}", "\n".join(problems)

    def spoils(self) -> Iterator[tuple[str, str]]:
        """Yield the same for `Fate.SPOILS`: each key of each call is spoilt before the call.

        Only keys of one job are spoilt, one at a time; other jobs must not be harmed.
        """
        call, key = 1, 0
        while True:
            assert call < _MOST_CALLS, "the act makes calls for ever"
            point = Point(call=call, moment=Moment.BEFORE, fate=Fate.SPOILS, key=key)
            scene = self._make_scene()
            report = self._fork_server.run(scene.orders(self._act, point, **self._orders))
            if report.call in ("", NO_KEY):
                scene.close()
                if not report.call:
                    return
                call, key = call + 1, 0
                continue
            scene.clock.advance(RESCUE_SECONDS)
            victim = spoilt_job(report.call)
            problems = list(judged(scene, late_after=self._late_after, without=victim))
            problems += _victim(scene, victim, report.call)
            scene.close()
            yield f"call {call}, {report.call}", "\n".join(problems)
            key += 1

    def _aftermath(self, scene: Scene, report: Report) -> Iterator[str]:
        if report.ending is Ending.FROZEN:
            yield from self._thawed(scene, report)
        scene.clock.advance(RESCUE_SECONDS)
        yield from judged(scene, late_after=self._late_after)

    def _thawed(self, scene: Scene, report: Report) -> Iterator[str]:
        """Let others go on while the child is frozen, then wake it; it must change nothing."""
        scene.elect()
        if self._act is not Act.BEAT:
            scene.clock.advance(_SLEEP_SECONDS)
            scene.settle()
        before = scene.snapshot()
        woken = self._fork_server.run(Resume(pid=report.pid))
        assert woken.ending is Ending.EXITED
        after = scene.snapshot()
        if before != after:
            changed = [k for k in before.keys() | after.keys() if before.get(k) != after.get(k)]
            yield f"the frozen {self._act.value} woke up and changed {sorted(changed)}"


def _victim(scene: Scene, job_id: str, call: str) -> Iterator[str]:
    """Yield the faults of the job with the spoilt key.

    A job whose own record is gone cannot run. Every other job runs again, or its record says why
    not.
    """
    if VICTIMS_COME_BACK and KEYS.job(job_id) not in call and not scene.has_come_back(job_id):
        yield f"{job_id} does not run any more, and nothing says why"


def judged(scene: Scene, *, late_after: timedelta, without: str = "") -> Iterator[str]:
    """Settle, let one more hour pass, settle again, and yield the faults.

    The job `without` is left out.
    """
    scene.settle()
    scene.next_hour()
    scene.settle()
    verdict: Verdict = scene.verdict(late_after=late_after, without=without)
    if not verdict.valid:
        yield verdict.faults()
    if leftovers := scene.leftovers(without=without):
        yield f"left behind: {leftovers}"
    if stopped := scene.stopped_schedules(without=without):
        yield f"schedules that stopped: {stopped}"
    # One message is right; the one process that died or slept may cost a second.
    yield from scene.other_faults(without=without, most_messages=2)
