"""Tests that a process may be killed or frozen before and after every Redis call it makes.

For each n the same scene is set up. A child process is killed or frozen at its n-th Redis call.
Then a clean beat and worker finish the work that is left, and a hand-set clock moves on by an hour.
Then the records are checked. The enumeration ends when the child makes fewer than n calls.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from hermes_celery.core.policy import OnLost, Overlap, Policy
from tests.proof.crash_scene import Scene
from tests.proof.crash_scene_setups import (
    beat_scene,
    budget_scene,
    delivered_scene,
    delivery_scene,
    due_delivery_scene,
    group_scene,
    late_scene,
    neighbours_scene,
    worker_scene,
)
from tests.proof.crashing_connections import Fate
from tests.proof.every_crash_point import VICTIMS_COME_BACK, Enumeration
from tests.proof.fork_server import Act, ForkServer

pytest_plugins = ("tests.proof.crash_fixtures",)
# Hundreds of child processes each: this limit is for a test that hangs, also on a busy machine.
pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

POLICIES = {
    "at most once": Policy(),
    "at least once": Policy(on_lost=OnLost.RETRY),
    "with retries": Policy(retries=1),
    "one run held back": Policy(overlap=Overlap.QUEUE_ONE),
}
DIES_OR_FREEZES = (Fate.DIES, Fate.FREEZES)
#: Time on the hand-set clock until a message that was lost with its worker is sent again.
REDELIVERED = timedelta(seconds=200)
#: A scene's only worker offers a result for five minutes to a spoilt record.
PATIENCE = timedelta(seconds=660)


def test_a_beat_may_be_killed_at_any_call(
    fork_server: ForkServer, server: str, starts: Callable[[], Path]
) -> None:
    assert_clean(beat(fork_server, Fate.DIES, lambda: beat_scene(server, starts())), at_least=80)


def test_a_beat_frozen_at_any_call_wakes_up_and_changes_nothing(
    fork_server: ForkServer, server: str, starts: Callable[[], Path]
) -> None:
    assert_clean(beat(fork_server, Fate.FREEZES, lambda: beat_scene(server, starts())), at_least=80)


@pytest.mark.parametrize("fate", [Fate.DIES, pytest.param(Fate.FREEZES, marks=pytest.mark.slow)])
def test_a_beat_that_runs_a_projects_publish_code_may_die_or_freeze_at_any_call(
    fork_server: ForkServer, server: str, starts: Callable[[], Path], fate: Fate
) -> None:
    assert_clean(beat(fork_server, fate, lambda: late_scene(server, starts())), at_least=60)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fate", DIES_OR_FREEZES)
def test_a_beat_of_eight_shards_may_die_or_freeze_at_any_call(
    fork_server: ForkServer, server: str, starts: Callable[[], Path], fate: Fate
) -> None:
    assert_clean(
        beat(fork_server, fate, lambda: beat_scene(server, starts(), shards=8)), at_least=120
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("fate", DIES_OR_FREEZES)
def test_a_worker_may_die_or_freeze_at_any_call(
    fork_server: ForkServer, server: str, starts: Callable[[], Path], fate: Fate, policy: str
) -> None:
    name = "fails" if POLICIES[policy].retries else "works"
    enumeration = Enumeration(
        fork_server,
        act=Act.WORKER,
        fate=fate,
        make_scene=lambda: worker_scene(server, starts(), policy=POLICIES[policy], name=name),
        late_after=REDELIVERED,
    )
    assert_clean(enumeration, at_least=20)


@pytest.mark.parametrize("fate", DIES_OR_FREEZES)
def test_a_worker_that_sends_heartbeats_may_die_or_freeze_at_any_call(
    fork_server: ForkServer, server: str, starts: Callable[[], Path], fate: Fate
) -> None:
    enumeration = Enumeration(
        fork_server,
        act=Act.WORKER,
        fate=fate,
        make_scene=lambda: worker_scene(server, starts(), policy=Policy()),
        late_after=REDELIVERED,
        heartbeats=True,
    )
    assert_clean(enumeration, at_least=30)


#: Name -> scene, the process that acts in it, and the fewest calls that it makes.
SHARED: dict[str, tuple[Callable[[str, Path], Scene], Act, int]] = {
    "a run that is delivered": (delivery_scene, Act.WORKER, 20),
    "a delivery": (delivered_scene, Act.POSTMAN, 20),
    "a delivery that is due": (due_delivery_scene, Act.BEAT, 20),
    "a full group": (partial(group_scene, full=True), Act.WORKER, 20),
    "a group": (partial(group_scene, full=False), Act.WORKER, 20),
    "budgets": (budget_scene, Act.WORKER, 20),
}

#: More scenes for spoilt keys.
SPOILT: dict[str, tuple[Callable[[str, Path], Scene], Act, int]] = {
    "a run": (neighbours_scene, Act.WORKER, 0),
    "a beat": (beat_scene, Act.BEAT, 0),
}


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("fate", DIES_OR_FREEZES)
def test_deliveries_groups_and_budgets_survive_a_crash_at_any_call(
    fork_server: ForkServer, server: str, starts: Callable[[], Path], fate: Fate, name: str
) -> None:
    make_scene, act, at_least = SHARED[name]
    enumeration = Enumeration(
        fork_server,
        act=act,
        fate=fate,
        make_scene=lambda: make_scene(server, starts()),
        late_after=REDELIVERED,
    )
    assert_clean(enumeration, at_least=at_least)


#: Scenes tried in every run of the tests; the others take a minute each.
SPOILT_OFTEN = ("a run", "a delivery", "a delivery that is due", "a full group")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SPOILT_OFTEN else pytest.mark.slow)
        for name in (*SHARED, *SPOILT)
    ],
)
def test_a_key_spoilt_between_two_calls_harms_no_other_job(
    fork_server: ForkServer, server: str, starts: Callable[[], Path], name: str
) -> None:
    make_scene, act, _ = {**SHARED, **SPOILT}[name]
    enumeration = Enumeration(
        fork_server,
        act=act,
        fate=Fate.SPOILS,
        make_scene=lambda: make_scene(server, starts()),
        late_after=REDELIVERED if VICTIMS_COME_BACK else PATIENCE,
    )
    met = list(enumeration.spoils())
    print(f"{len(met)} points")
    assert "\n".join(f"{call}: {problem}" for call, problem in met if problem) == ""
    assert len(met) > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("pool", "threads"), [("solo", "main"), ("threads", "main"), ("threads", "pool")]
)
def test_a_celery_worker_may_be_killed_at_any_call(
    fork_server: ForkServer, server: str, starts: Callable[[], Path], pool: str, threads: str
) -> None:
    enumeration = Enumeration(
        fork_server,
        act=Act.CELERY,
        fate=Fate.DIES,
        make_scene=lambda: worker_scene(server, starts(), policy=Policy()),
        late_after=REDELIVERED,
        pool=pool,
        threads=threads,
    )
    assert_clean(enumeration, at_least=10)


def beat(fork_server: ForkServer, fate: Fate, make_scene: Callable[[], Scene]) -> Enumeration:
    """Return the enumeration of a beat that dispatches and rescues once."""
    return Enumeration(
        fork_server,
        act=Act.BEAT,
        fate=fate,
        make_scene=make_scene,
        late_after=timedelta(seconds=30),
    )


def assert_clean(enumeration: Enumeration, *, at_least: int) -> None:
    """Assert that no crash point leaves a fault and that there are more than `at_least` points."""
    met = list(enumeration.faults())
    print(f"{len(met) - 1} points")
    assert "\n".join(f"{call}: {problem}" for call, problem in met if problem) == ""
    assert len(met) > at_least
