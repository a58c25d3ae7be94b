"""The checks of queues and workers, from the signs that workers leave in the store."""

from __future__ import annotations

import pytest

from hermes_celery.observe.checks.workers_and_queues import (
    all_is_served,
    beat_finding,
    queue_findings,
    twin_findings,
    worker_finding,
)
from hermes_celery.observe.figures import Status
from hermes_celery.observe.finding import Verdict
from hermes_celery.store import WorkerSign
from hermes_celery.store.queue_health import LivingWorkers, QueueFacts, QueueLook, QueueState, judge
from hermes_celery.store.queue_load import WaitingMessages
from tests.support import replaced

NOW = 1_800_000_000_000
JUST_NOW, LONG_AGO = NOW - 1000, NOW - 31_000


def worker(asked_ms: int = JUST_NOW, *, queue: str = "q", is_full: bool = False) -> WorkerSign:
    return WorkerSign(seen_ms=NOW, queues={queue: asked_ms}, is_full=is_full)


def look(who: LivingWorkers, *, waiting: int = 3, taken_ms: int | None = None) -> QueueLook:
    return judge(
        "q",
        QueueFacts(
            waiting=WaitingMessages(length=waiting, next_up="x"),
            taken_ms=taken_ms,
            oldest_ms=LONG_AGO if waiting else None,
        ),
        who,
        now_ms=NOW,
    )


@pytest.mark.parametrize(
    ("state", "signs"),
    [
        (QueueState.OK, [worker()]),
        (QueueState.OK, [worker(LONG_AGO), worker()]),
        (QueueState.SILENT, [worker(LONG_AGO)]),
        (QueueState.BUSY, [worker(LONG_AGO, is_full=True)]),
        (QueueState.BUSY, [worker(is_full=True), worker(LONG_AGO)]),
        (QueueState.NOBODY, [worker(queue="other")]),
        (QueueState.NOBODY, []),
    ],
)
def test_a_queues_state_follows_from_its_workers_signs(
    state: QueueState, signs: list[WorkerSign]
) -> None:
    named = {f"w{number}": sign for number, sign in enumerate(signs)}
    assert look(LivingWorkers(names=list(named), signs=named)).state is state


def test_with_a_worker_that_leaves_no_sign_the_state_is_unknown() -> None:
    assert look(LivingWorkers(names=["old"], signs={})).state is QueueState.UNKNOWN
    both = LivingWorkers(names=["old", "w"], signs={"w": worker(LONG_AGO)})
    assert look(both).state is QueueState.UNKNOWN
    assert look(LivingWorkers(names=["old", "w"], signs={"w": worker()})).state is QueueState.OK


def state_of(who: LivingWorkers, one: QueueLook) -> Status:
    return Status(
        server="s", now_ms=NOW, leader="b", term=1, shards=1, unled=[], workers=list(who.names),
        silent_workers=who.silent(now_ms=NOW), queues=[one], jobs=1, next_due_ms=None, queued=0,
        running=0, incidents=0, paused_ms=None, pause_note="",
    )  # fmt: skip


def test_a_silent_worker_is_not_counted_and_its_queue_is_named() -> None:
    who = LivingWorkers(names=["w"], signs={"w": worker(LONG_AGO)})
    state = state_of(who, look(who, taken_ms=LONG_AGO))
    assert worker_finding(state).verdict is Verdict.FAIL
    (finding,) = queue_findings(state)
    assert finding.verdict is Verdict.FAIL
    assert "no worker has taken a message from queue q since 2027-01-15 07:59:29 UTC" in (
        finding.text
    )


def test_workers_with_the_same_celery_name_are_reported() -> None:
    names = ["celery@here:12", "celery@here:13", "other@here:14"]
    who = LivingWorkers(names=names, signs={name: worker() for name in names})
    (finding,) = twin_findings(state_of(who, look(who)))
    assert finding.verdict is Verdict.WARN
    assert "2 workers are called celery@here (celery@here:12, celery@here:13)" in finding.text
    assert list(twin_findings(state_of(LivingWorkers(names=names[1:], signs={}), look(who)))) == []


def test_a_queue_without_consumers_is_named_if_messages_wait() -> None:
    who = LivingWorkers(names=["w"], signs={"w": worker(queue="other")})
    assert worker_finding(state_of(who, look(who))).verdict is Verdict.OK
    (finding,) = queue_findings(state_of(who, look(who)))
    assert "queue q: no worker consumes it, and 3 messages wait" in finding.text
    assert list(queue_findings(state_of(who, look(who, waiting=0)))) == []


def test_older_and_full_workers_cause_a_warning() -> None:
    who = LivingWorkers(names=["old"], signs={})
    (finding,) = queue_findings(state_of(who, look(who)))
    assert (finding.verdict, "is unknown" in finding.text) == (Verdict.WARN, True)
    who = LivingWorkers(names=["w"], signs={"w": worker(is_full=True)})
    (finding,) = queue_findings(state_of(who, look(who)))
    assert (finding.verdict, "all slots are taken" in finding.text) == (Verdict.WARN, True)
    assert list(queue_findings(state_of(who, look(who, taken_ms=JUST_NOW)))) == []


def test_all_is_served_with_a_leader_a_polling_worker_and_no_lost_jobs() -> None:
    who = LivingWorkers(names=["w"], signs={"w": worker()})
    state = state_of(who, look(who))
    assert all_is_served(state)
    silent = LivingWorkers(names=["w"], signs={"w": worker(LONG_AGO)})
    for less in (
        replaced(state, leader=None, unled=[0]),
        replaced(state, gone="2 jobs that were here are gone"),
        state_of(LivingWorkers(names=[], signs={}), look(who)),
        state_of(silent, look(silent, taken_ms=LONG_AGO)),
    ):
        assert not all_is_served(less)


def test_a_shard_without_a_leader_is_named() -> None:
    state = state_of(
        LivingWorkers(names=[], signs={}), look(LivingWorkers(names=[], signs={}), waiting=0)
    )
    assert (beat_finding(state).verdict, beat_finding(state).text) == (Verdict.OK, "b leads")
    two = replaced(state, leader=None, shards=2, unled=[1])
    assert beat_finding(two).verdict is Verdict.FAIL
    assert beat_finding(two).text.startswith("none leads shard 1; ")
    none = replaced(two, unled=[0, 1])
    assert beat_finding(none).text.startswith("none leads, so nothing is dispatched; start ")
