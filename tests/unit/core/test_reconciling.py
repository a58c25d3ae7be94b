"""The checks for disagreeing records, on plain values: facts go in, findings come out."""

from __future__ import annotations

from typing import Any

import pytest

from hermes_celery.core.reconciling import (
    Disagreement,
    DisagreementKind,
    KeyRole,
    MendDeadlines,
    WrongType,
)
from hermes_celery.core.reconciling_jobs import (
    JobFacts,
    judge_job,
    name_entry,
    plan_again,
    wants_spec,
)
from hermes_celery.core.reconciling_runs import RunFacts, judge_run
from tests.support import NOON, a_spec, replaced

NOW = int(NOON.timestamp() * 1000)
AT = MendDeadlines(now_ms=NOW, redeliver_ms=NOW + 60_000, heartbeat_ms=NOW + 15_000)
JOB, RUN = "a" * 12, "a" * 12 + "-20260622T120000Z"


def job(fields: dict[str, Any] | None = None, **changes: Any) -> JobFacts:
    """Return the facts of a healthy scheduled job, with some of them changed."""
    stored = {"state": "scheduled", "next_ms": "5", "revision": "1", "completed": "0"}
    facts: dict[str, Any] = {
        "id": JOB, "kind": "hash", "fields": {**stored, **(fields or {})}, "spec_bytes": "99",
        "due": "5", "listed": "1",
    }  # fmt: skip
    return JobFacts(**{**facts, **changes})


def run(fields: dict[str, Any] | None = None, **changes: Any) -> RunFacts:
    """Return the facts of a healthy queued run, with some of them changed."""
    stored = {"state": "queued", "queued_ms": "5", "job_name": "n"}
    facts: dict[str, Any] = {
        "id": RUN, "job_id": JOB, "kind": "hash", "fields": {**stored, **(fields or {})},
        "active_kind": "hash", "word": "queued", "active_count": 1, "queued": "7",
        "recorded": "5", "by_job": "0",
    }  # fmt: skip
    return RunFacts(**{**facts, **changes})


def writes(found: list[Disagreement]) -> list[tuple[str, ...]]:
    return [(op.verb.value, op.role.value, *op.args) for one in found for op in one.ops]


@pytest.mark.parametrize(
    "facts",
    [
        job(),
        job({"state": "paused", "next_ms": "5"}, due=None),
        job({"state": "error"}, due=None),
        job({"state": "completed", "next_ms": None}, due=None, completed="9"),
        job({"state": "completed", "next_ms": None}, due=None, completed=None),
        job({"next_ms": None}, due=None, active={RUN: "running"}),
        job(due=str(NOW + 10_000)),
        job(due="5.0"),
        job({"spent_cost": "0.25", "failures": "3"}),
    ],
)
def test_a_healthy_job_is_left_alone(facts: JobFacts) -> None:
    assert judge_job(facts, at=AT, spec=a_spec("in 1h")) == []


@pytest.mark.parametrize(
    "facts",
    [
        run(),
        run(word="retrying"),
        run(word=None, held="2", queued=None),
        run({"state": "running"}, word="running", queued=None, heartbeat=str(NOW + 15_000)),
        run({"state": "succeeded"}, word=None, queued=None),
        run({"state": "failed", "delivery": "pending"}, word=None, queued=None, delivery_due="9"),
        run({"state": "evaporated"}, word=None, queued=None),
        run({"attempt": "2", "expires_ms": "77", "cost_usd": "1.5"}),
    ],
)
def test_a_healthy_run_is_left_alone(facts: RunFacts) -> None:
    assert judge_run(facts, at=AT) == []


@pytest.mark.parametrize("name", ["completed", "failures", "paused_ms", "spent_tokens"])
@pytest.mark.parametrize("value", ["", "x", "1.5", "1e3", "9" * 30])
def test_a_field_that_is_not_a_number_is_replaced(name: str, value: str) -> None:
    (found,) = judge_job(job({name: value}), at=AT)
    assert found.trouble is DisagreementKind.BROKEN
    gone = ("clear", "job", name)
    assert writes([found]) == [gone if name != "completed" else ("set", "job", name, "0")]


def test_a_job_that_lost_its_next_instant_is_planned_again() -> None:
    facts = job({"next_ms": None}, due=None)
    assert wants_spec(facts, now_ms=AT.now_ms)
    (found,) = judge_job(facts, at=AT, spec=a_spec("every 1h"))
    assert found.trouble is DisagreementKind.STOPPED
    assert ("enter", "due", str(NOW + 3_600_000), JOB) in writes([found])


def test_a_running_job_that_lost_its_next_instant_counts_as_stopped() -> None:
    facts = job({"next_ms": None, "completed": "3"}, due=None, active={RUN: "running"})
    (found,) = judge_job(facts, at=AT, spec=a_spec("every 1h"))
    assert found.trouble is DisagreementKind.STOPPED


def test_a_stopped_job_that_cannot_be_planned_fails_with_the_reason() -> None:
    facts = job({"next_ms": "soon"}, due=None)
    (found,) = judge_job(facts, at=AT, spec=None)
    assert found.trouble is DisagreementKind.STOPPED
    assert writes([found])[0][:4] == ("set", "job", "state", "error")
    assert "its definition is unreadable" in writes([found])[0][-1]


def test_nothing_is_written_to_an_index_of_another_type() -> None:
    for facts in (
        job({"next_ms": None}, due=WrongType.TYPE, completed=WrongType.TYPE),
        job(due=WrongType.TYPE, listed=WrongType.TYPE),
    ):
        roles = {op.role for one in judge_job(facts, at=AT, spec=a_spec()) for op in one.ops}
        assert not roles & {KeyRole.DUE, KeyRole.JOBS, KeyRole.COMPLETED}
    for waiting in (
        run(queued=WrongType.TYPE, heartbeat=WrongType.TYPE, recorded=WrongType.TYPE,
            by_job=WrongType.TYPE),
        run({"state": "running"}, queued=WrongType.TYPE, heartbeat=WrongType.TYPE, word="running"),
        run({"state": "failed", "delivery": "pending"}, queued=WrongType.TYPE, word=None,
            delivery_due=WrongType.TYPE),
        run(active_kind="string", word=None),
    ):  # fmt: skip
        assert judge_run(waiting, at=AT) == []


@pytest.mark.parametrize(
    ("schedule", "completed", "expected"),
    [
        ("every 1h", 0, NOW + 3_600_000),
        ("every 1h", 99, NOW + 3_600_000),
        ("in 1h", 0, NOW + 3_600_000),
        ("in 1h", 1, None),
    ],
)
def test_a_job_is_replanned_from_its_schedule_alone(
    schedule: str, completed: int, expected: int | None
) -> None:
    assert plan_again(a_spec(schedule), completed=completed, now_ms=NOW).next_ms == expected


def test_a_passed_one_shot_is_still_due_and_a_used_up_repeat_is_not() -> None:
    once = a_spec("in 1h")
    later = NOW + 7_200_000
    assert plan_again(once, completed=0, now_ms=later).next_ms == NOW + 3_600_000
    thrice = replaced(a_spec("every 1h"), repeat_times=3)
    assert plan_again(thrice, completed=2, now_ms=NOW).next_ms is not None
    assert plan_again(thrice, completed=3, now_ms=NOW).next_ms is None


def test_a_wrongly_completed_job_is_planned_again_and_an_imported_one_is_not() -> None:
    """A job that was imported as completed stays completed."""
    fields = {"state": "completed", "next_ms": None, "last_run_ms": "7"}
    by_scripts, imported = (job(fields, due=None, completed=c) for c in ("9", None))
    (found,) = judge_job(by_scripts, at=AT, spec=a_spec("every 1h"))
    assert found.trouble is DisagreementKind.STOPPED
    assert judge_job(imported, at=AT, spec=a_spec("every 1h")) == []
    assert judge_job(by_scripts, at=AT, spec=a_spec("in 1h")) == []


@pytest.mark.parametrize("word", ["", "\udce2\udc82", "Scheduled", "12", "a b", "x" * 41])
def test_a_state_that_is_no_word_is_replaced_and_an_unknown_word_is_kept(word: str) -> None:
    (found,) = judge_job(job({"state": word}), at=AT)
    assert found.trouble is DisagreementKind.BROKEN
    assert writes([found]) == [("set", "job", "state", "scheduled")]
    paused = judge_job(job({"state": word, "paused_ms": "5"}, due=None), at=AT)
    assert writes(paused) == [("set", "job", "state", "paused")]
    (newer,) = judge_job(job({"state": "snoozed"}), at=AT)
    assert not newer.ops


def test_a_declared_or_still_planned_job_that_is_completed_is_planned_again() -> None:
    spec = a_spec("every 1h")
    declared = replaced(spec, managed_by="project:shop")
    for facts, its_spec in (
        (job({"state": "completed", "next_ms": None}, due=None), declared),
        (job({"state": "completed"}, due="5"), declared),
        (job({"state": "completed"}, due=None), spec),
    ):
        assert wants_spec(facts, now_ms=AT.now_ms)
        found = judge_job(facts, at=AT, spec=its_spec)
        assert found[0].trouble is DisagreementKind.STOPPED
        assert ("enter", "due", str(NOW + 3_600_000), JOB) in writes(found[:1])
    over = replaced(declared, repeat_times=3)
    facts = job({"state": "completed", "next_ms": None, "completed": "3"}, due=None)
    assert judge_job(facts, at=AT, spec=over) == []


@pytest.mark.parametrize(
    ("schedule", "days", "is_wrong"),
    [
        ("every 1h", 29, False),
        ("every 1h", 31, True),
        ("every 1h", 50_000, True),
        ("every 60d", 59, False),
        ("every 60d", 62, True),
        ("0 0 1 1 *", 192, False),
        ("0 0 1 1 *", 600, True),
    ],
)
def test_a_next_instant_later_than_the_schedule_says_is_planned_again(
    schedule: str, days: int, is_wrong: bool
) -> None:
    next_ms = str(NOW + days * 86_400_000)
    facts = job({"next_ms": next_ms}, due=next_ms)
    found = judge_job(facts, at=AT, spec=a_spec(schedule))
    assert [one.trouble for one in found] == [DisagreementKind.STOPPED] * is_wrong
    assert wants_spec(facts, now_ms=AT.now_ms) is (days > 30)


def test_a_one_shot_may_be_due_at_any_time() -> None:
    spec = a_spec("in 300d")
    next_ms = str(NOW + 300 * 86_400_000)
    assert judge_job(job({"next_ms": next_ms}, due=next_ms), at=AT, spec=spec) == []


def test_a_wrong_entry_in_the_index_of_names_is_replaced() -> None:
    spec = a_spec(name="backup")
    entry = name_entry(spec)
    facts = job(entry=entry, found=f"old\0{JOB}", named=None, misnamed="0")
    assert writes(judge_job(facts, at=AT, spec=spec)) == [
        ("enter", "names", "0", entry),
        ("leave", "names", f"old\0{JOB}"),
    ]


@pytest.mark.parametrize("heartbeat", [None, "inf", str(NOW + 3_600_000)])
def test_a_running_run_without_a_valid_heartbeat_gets_a_deadline(heartbeat: str | None) -> None:
    facts = run({"state": "running"}, word="running", queued=None, heartbeat=heartbeat)
    assert writes(judge_run(facts, at=AT)) == [("enter", "heartbeats", str(NOW + 15_000), RUN)]


def test_a_held_run_waits_while_another_is_active() -> None:
    held: dict[str, Any] = {"word": None, "queued": None, "held": "1"}
    assert judge_run(run(active_count=1, **held), at=AT) == []
    assert ("unhold", "held", RUN) in writes(judge_run(run(active_count=0, **held), at=AT))


def test_a_pending_delivery_missing_from_the_queue_is_queued() -> None:
    facts = run({"state": "failed", "delivery": "pending"}, word=None, queued=None)
    assert writes(judge_run(facts, at=AT)) == [("enter", "deliveries", str(NOW), RUN)]


DAY_MS = 86_400_000


def waits_for_retry(retry_ms: int | str, patience_ms: int | str) -> dict[str, Any]:
    """Return the fields of a run that waits for its task's own retry."""
    return {"handed_on": RUN, "retry_ms": str(retry_ms), "patience_ms": str(patience_ms)}


@pytest.mark.parametrize(
    ("fields", "deadline_ms"),
    [
        ({"handed_on": RUN, "handed_hop": "1"}, NOW + DAY_MS),
        ({"handed_on": RUN, "retry_ms": str(NOW + 5_000)}, NOW + 5_000 + DAY_MS),
        ({"handed_on": RUN, "retry_ms": str(NOW - 5_000)}, NOW + DAY_MS),
        ({"handed_on": RUN, "retry_ms": str(NOW + 5_000), "unpushed": "1"}, NOW + 65_000),
        (waits_for_retry(NOW + 5_000, 3_780_000), NOW + 3_785_000),
        (waits_for_retry(NOW - 3_000_000, 3_780_000), NOW + 3_780_000),
        (waits_for_retry(NOW + 5_000, 60_000) | {"unpushed": "1"}, NOW + 65_000),
        (waits_for_retry(NOW + 5_000, "soon"), NOW + 5_000 + DAY_MS),
        (waits_for_retry(NOW, "-5"), NOW + 60_000),
        (waits_for_retry("9" * 16, "9" * 16), NOW + 2 * 366 * DAY_MS),
        ({}, NOW + 60_000),
    ],
)
def test_a_run_that_was_handed_on_is_queued_again_with_a_later_deadline(
    fields: dict[str, Any], deadline_ms: int
) -> None:
    found = judge_run(run(fields, queued=None), at=AT)
    assert ("enter", "queued", str(deadline_ms), RUN) in writes(found)


def test_a_run_that_was_handed_on_is_indexed_again_without_a_push() -> None:
    facts = run({"handed_on": RUN, "handed_hop": "1"}, queued=None, word=None, active_count=0)
    assert writes(judge_run(facts, at=AT)) == [
        ("set", "active", RUN, "queued"),
        ("enter", "queued", str(NOW + DAY_MS), RUN),
    ]
