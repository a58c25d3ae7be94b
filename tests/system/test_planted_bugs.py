"""Tests that the crash enumeration finds each planted bug, at the Redis call that causes it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from hermes_celery.core.policy import OnLost, Policy
from tests.proof.crash_scene_setups import (
    beat_scene,
    budget_scene,
    delivered_scene,
    group_scene,
    late_scene,
    worker_scene,
)
from tests.proof.crashing_connections import Fate
from tests.proof.every_crash_point import Enumeration
from tests.proof.fork_server import Act, ForkServer
from tests.proof.known_bugs import KnownBug
from tests.proof.project_soak import Plan as ProjectPlan
from tests.proof.project_soak import run_round as run_project_round
from tests.proof.soak import Plan, run_round

pytest_plugins = ("tests.proof.crash_fixtures",)
pytestmark = pytest.mark.system

Starts = Callable[[], Path]


def first_fault(enumeration: Enumeration) -> tuple[str, str]:
    """Return the first call at which the enumeration finds a fault, and the fault."""
    return next(((call, what) for call, what in enumeration.faults() if what), ("", ""))


def beat(
    fork_server: ForkServer, server: str, starts: Starts, plant: KnownBug, fate: Fate
) -> Enumeration:
    """Return the enumeration of a beat with a planted bug."""
    return Enumeration(
        fork_server,
        act=Act.BEAT,
        fate=fate,
        make_scene=lambda: beat_scene(server, starts(), plant=plant),
        late_after=timedelta(seconds=30),
    )


def worker(
    fork_server: ForkServer, server: str, starts: Starts, plant: KnownBug, policy: Policy
) -> Enumeration:
    """Return the enumeration of a worker with a planted bug, frozen past its heartbeat deadline."""
    return Enumeration(
        fork_server,
        act=Act.WORKER,
        fate=Fate.FREEZES,
        make_scene=lambda: worker_scene(server, starts(), plant=plant, policy=policy),
        late_after=timedelta(seconds=200),
    )


def test_moving_the_schedule_before_publishing_loses_occurrences(
    fork_server: ForkServer, server: str, starts: Starts
) -> None:
    call, what = first_fault(beat(fork_server, server, starts, KnownBug.SCHEDULE_FIRST, Fate.DIES))
    assert "HSET" in call or "ZADD" in call
    assert "has no record" in what


def test_publishing_outside_the_script_delays_runs(
    fork_server: ForkServer, server: str, starts: Starts
) -> None:
    # Runs recorded by the script but published after it are rescued, but only much later.
    call, what = first_fault(beat(fork_server, server, starts, KnownBug.PUBLISH_OUTSIDE, Fate.DIES))
    assert "after EVALSHA" in call
    assert " s late" in what


def test_an_unrecorded_run_that_waits_for_its_message_stays_queued_for_ever(
    fork_server: ForkServer, server: str, starts: Starts
) -> None:
    enumeration = Enumeration(
        fork_server,
        act=Act.BEAT,
        fate=Fate.DIES,
        make_scene=lambda: late_scene(server, starts(), plant=KnownBug.LATE_UNNOTED),
        late_after=timedelta(seconds=60),
    )
    _, what = first_fault(enumeration)
    assert "is queued for ever" in what


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("plant", "what"), [("expired", "is queued for ever"), ("replaced", "before its last part")]
)
def test_the_project_soak_finds_a_project_event_that_the_package_ignores(
    plant: str, what: str
) -> None:
    plan = ProjectPlan(
        seconds=25, jobs=1, fault_seconds=1, settle_seconds=20, plant=plant, faults=("freeze_all",)
    )
    result = run_project_round(plan)
    assert what in result.faults()


def test_a_run_without_a_claim_starts_twice(
    fork_server: ForkServer, server: str, starts: Starts
) -> None:
    call, what = first_fault(worker(fork_server, server, starts, KnownBug.NO_CLAIM, Policy()))
    assert "after RPOP" in call
    assert "started 2 times" in what


def test_without_a_fence_a_frozen_leader_writes(
    fork_server: ForkServer, server: str, starts: Starts
) -> None:
    call, what = first_fault(beat(fork_server, server, starts, KnownBug.NO_FENCE, Fate.FREEZES))
    assert "EVALSHA" in call
    assert "woke up and changed" in what


def test_without_a_claim_token_a_lost_run_is_overwritten(
    fork_server: ForkServer, server: str, starts: Starts
) -> None:
    policy = Policy(on_lost=OnLost.FAIL)
    call, what = first_fault(worker(fork_server, server, starts, KnownBug.NO_CLAIM_TOKEN, policy))
    assert "EVALSHA" in call
    assert "woke up and changed" in what


def test_an_unrecorded_delivery_is_lost_with_its_message(
    fork_server: ForkServer, server: str, starts: Starts
) -> None:
    enumeration = Enumeration(
        fork_server,
        act=Act.POSTMAN,
        fate=Fate.DIES,
        make_scene=lambda: delivered_scene(server, starts(), plant=KnownBug.DELIVERY_UNNOTED),
        late_after=timedelta(seconds=200),
    )
    call, what = first_fault(enumeration)
    assert "after RPOP" in call
    assert "is pending for ever" in what
    assert "reached free 0 times" in what


def test_a_group_without_admission_control_exceeds_its_limit(
    fork_server: ForkServer, server: str, starts: Starts
) -> None:
    enumeration = Enumeration(
        fork_server,
        act=Act.WORKER,
        fate=Fate.DIES,
        make_scene=lambda: group_scene(server, starts(), full=True, plant=KnownBug.NO_PLACES),
        late_after=timedelta(seconds=200),
    )
    _, what = first_fault(enumeration)
    assert "2 runs in group g, which takes 1" in what


def test_a_budget_that_pauses_no_job_is_overspent(
    fork_server: ForkServer, server: str, starts: Starts
) -> None:
    enumeration = Enumeration(
        fork_server,
        act=Act.WORKER,
        fate=Fate.DIES,
        make_scene=lambda: budget_scene(server, starts(), plant=KnownBug.NO_PAUSE),
        late_after=timedelta(seconds=200),
    )
    _, what = first_fault(enumeration)
    assert "has spent 20 of 10 tokens, but is scheduled" in what


def test_the_check_reports_a_job_blocked_for_ever_by_an_orphaned_entry() -> None:
    plan = Plan(
        seconds=6,
        jobs=20,
        beats=1,
        consumers=1,
        workers=0,
        fault_seconds=0.5,
        faults=("haunt",),
        mends=False,
    )
    result = run_round(plan)
    assert result.stopped
    assert "silently stopped" in result.faults()
    assert not result.valid
