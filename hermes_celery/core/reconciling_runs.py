"""The rules for one run: its record and the indexes of active runs must agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from hermes_celery.core.job import is_job_id
from hermes_celery.core.reconciling import (
    Disagreement,
    DisagreementKind,
    Fact,
    KeyRole,
    MendDeadlines,
    MendVerb,
    MendWrite,
    WrongType,
    fact_text,
    is_fine,
    op,
    score,
    whole,
)
from hermes_celery.core.run import (
    MOST_PATIENCE_MS,
    PATIENCE_SECONDS,
    DeliveryState,
    RunState,
    is_run_id,
    job_id_of,
)


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The stored facts about one run."""

    id: str
    #: The job among whose active or held runs it was found.
    job_id: str
    kind: str
    fields: Mapping[str, Fact]
    active_kind: str = "none"
    #: Its word among the job's active runs: `queued`, `running` or `retrying`.
    word: Fact = None
    #: Number of active runs of the job.
    active_count: int = 0
    #: Its position among the held runs of its job, from 1.
    held: Fact = None
    queued: Fact = None
    heartbeat: Fact = None
    delivery_due: Fact = None
    recorded: Fact = None
    by_job: Fact = None
    delivery_kind: str = "none"

    @property
    def state(self) -> RunState | None:
        """The run's state; None if this version does not know the word."""
        found = self.fields.get("state")
        return RunState(found) if found in set(RunState) else None

    @property
    def is_handed_on(self) -> bool:
        """True if the run's task handed it on; then only the message that continues it counts."""
        return self.fields.get("handed_on") is not None

    @property
    def is_live(self) -> bool:
        """True if any index says that the run is under way."""
        return any(isinstance(fact, str) for fact in (self.word, self.queued, self.heartbeat))


def judge_run(facts: RunFacts, *, at: MendDeadlines) -> list[Disagreement]:
    """Return what is wrong with a run."""
    if facts.job_id != job_id_of(facts.id):
        return list(_another_jobs(facts))
    if facts.kind == "none":
        return [*_gone_run(facts), *_broken_delivery(facts)]
    if facts.kind != "hash":
        ops = [one for finding in _gone_run(facts) for one in finding.ops]
        text = f"is stored as a {facts.kind}, not a hash; moved to quarantine"
        return [
            _about_run(
                facts, DisagreementKind.BROKEN, text, op(MendVerb.QUARANTINE, KeyRole.RUN), *ops
            )
        ]
    if facts.state is None or not is_run_id(facts.id):
        return list(_unreadable_run(facts, at))
    found = [*_run_fields(facts, at), *_broken_delivery(facts), *_recorded(facts, at)]
    if facts.state is RunState.QUEUED:
        found += _waiting(facts, at)
    elif facts.state is RunState.RUNNING:
        found += _running(facts, at)
    else:
        found += _over(facts, at)
    return found


def _another_jobs(facts: RunFacts) -> Iterator[Disagreement]:
    """Find a run that is listed under another job."""
    ops = _off_job(facts)
    if ops:
        text = f"was among the runs of job {facts.job_id}; removed from them"
        yield _about_run(facts, DisagreementKind.GHOST, text, *ops)


def _off_job(facts: RunFacts) -> list[MendWrite]:
    ops = []
    if isinstance(facts.word, str):
        ops.append(op(MendVerb.CLEAR, KeyRole.ACTIVE, facts.id))
    if isinstance(facts.held, str):
        ops.append(op(MendVerb.UNHOLD, KeyRole.HELD, facts.id))
    return ops


def _off_indexes(facts: RunFacts) -> list[MendWrite]:
    """Return the writes that remove a run from every index of runs under way."""
    places = ((KeyRole.QUEUED, facts.queued), (KeyRole.HEARTBEATS, facts.heartbeat))
    ops = [op(MendVerb.LEAVE, role, facts.id) for role, fact in places if isinstance(fact, str)]
    return [*ops, *_off_job(facts)]


def _gone_run(facts: RunFacts) -> Iterator[Disagreement]:
    ops = _off_indexes(facts)
    places = [(KeyRole.RUNS, facts.recorded), (KeyRole.JOB_RUNS, facts.by_job)]
    if facts.delivery_kind != "hash":
        places.append((KeyRole.DELIVERIES, facts.delivery_due))
    ops += [op(MendVerb.LEAVE, role, facts.id) for role, fact in places if isinstance(fact, str)]
    if ops:
        where = ", ".join(one.role.value for one in ops)
        text = f"has entries ({where}) and no record; removed"
        yield _about_run(facts, DisagreementKind.GHOST, text, *ops)


def _unreadable_run(facts: RunFacts, at: MendDeadlines) -> Iterator[Disagreement]:
    """End a run that cannot continue and blocks others: record it as lost."""
    if not facts.is_live and facts.held is None:
        return
    why = f"its record is unreadable: state {fact_text(facts.fields.get('state'))}"
    if facts.state is not None:
        why = "its id is not a valid run id"
    ops = [
        op(
            MendVerb.SET,
            KeyRole.RUN,
            "state",
            RunState.LOST,
            "finished_ms",
            at.now_ms,
            "error",
            why,
        ),
        op(MendVerb.CLEAR, KeyRole.RUN, "claim"),
        *_off_indexes(facts),
    ]
    yield _about_run(facts, DisagreementKind.BROKEN, f"was ended as lost: {why}", *ops)


def _run_fields(facts: RunFacts, at: MendDeadlines) -> Iterator[Disagreement]:
    needed = {"queued_ms": str(at.now_ms), "job_name": job_id_of(facts.id)}
    words = {"state", "job_name", "delivery", "trigger", "handed_on", "unpushed"}
    for name, fact in facts.fields.items():
        is_missing = name in needed and fact is None
        if not is_missing and (name in words or fact is None or is_fine(name, fact)):
            continue
        if name in needed:
            one, becomes = (
                op(MendVerb.SET, KeyRole.RUN, name, needed[name]),
                f"set to {needed[name]}",
            )
        else:
            one, becomes = op(MendVerb.CLEAR, KeyRole.RUN, name), "removed"
        yield _about_run(
            facts, DisagreementKind.BROKEN, f"has {name} {fact_text(fact)}; {becomes}", one
        )


def _broken_delivery(facts: RunFacts) -> Iterator[Disagreement]:
    if facts.delivery_kind not in ("none", "hash"):
        text = f"has its delivery stored as a {facts.delivery_kind}; moved to quarantine"
        yield _about_run(
            facts, DisagreementKind.BROKEN, text, op(MendVerb.QUARANTINE, KeyRole.DELIVERY)
        )


def _recorded(facts: RunFacts, at: MendDeadlines) -> Iterator[Disagreement]:
    queued_ms = whole(facts.fields.get("queued_ms")) or at.now_ms
    places = ((KeyRole.RUNS, facts.recorded, queued_ms), (KeyRole.JOB_RUNS, facts.by_job, 0))
    ops = [
        op(MendVerb.ENTER, role, score, facts.id) for role, fact, score in places if fact is None
    ]
    if ops:
        yield _about_run(facts, DisagreementKind.DISAGREES, "was in no list of runs; added", *ops)


def _waiting(facts: RunFacts, at: MendDeadlines) -> Iterator[Disagreement]:
    if isinstance(facts.heartbeat, str):
        one = op(MendVerb.LEAVE, KeyRole.HEARTBEATS, facts.id)
        yield _about_run(
            facts, DisagreementKind.GHOST, "is queued, but had a heartbeat; removed", one
        )
    if isinstance(facts.word, str):
        yield from _active(facts, at)
    elif facts.active_kind in ("none", "hash") and facts.queued is not WrongType.TYPE:
        yield from _inactive(facts, at)


def _is_off_line(facts: RunFacts) -> bool:
    """Return whether the run lacks a redelivery deadline, so that it is never pushed again."""
    return facts.queued is not WrongType.TYPE and score(facts.queued) is None


def _deadline_ms(facts: RunFacts, at: MendDeadlines) -> int:
    """Return the redelivery deadline of a waiting run that has lost its entry.

    A run that was handed on is lost, or starts again, when its patience ends. That is no earlier
    than its message could have come.
    """
    if not facts.is_handed_on:
        return at.redeliver_ms
    patience_ms = whole(facts.fields.get("patience_ms"))
    if patience_ms is None:
        starts_again = facts.fields.get("unpushed") is not None
        patience_ms = at.redeliver_ms - at.now_ms if starts_again else int(PATIENCE_SECONDS * 1000)
    retry_ms = whole(facts.fields.get("retry_ms")) or 0
    begins_ms = max(at.now_ms, min(retry_ms, at.now_ms + MOST_PATIENCE_MS))
    return max(at.redeliver_ms, begins_ms + min(patience_ms, MOST_PATIENCE_MS))


def _active(facts: RunFacts, at: MendDeadlines) -> Iterator[Disagreement]:
    if facts.word not in ("queued", "retrying"):
        one = op(MendVerb.SET, KeyRole.ACTIVE, facts.id, "queued")
        yield _about_run(
            facts,
            DisagreementKind.DISAGREES,
            f"is queued, but its job called it {fact_text(facts.word)}; corrected",
            one,
        )
    if _is_off_line(facts):
        one = op(MendVerb.ENTER, KeyRole.QUEUED, _deadline_ms(facts, at), facts.id)
        yield _about_run(facts, DisagreementKind.DISAGREES, "had no redelivery deadline; set", one)


def _inactive(facts: RunFacts, at: MendDeadlines) -> Iterator[Disagreement]:
    # A run that was handed on has started: it waits for its own message, not for another run.
    if facts.held is None and (isinstance(facts.queued, str) or facts.is_handed_on):
        ops = [op(MendVerb.SET, KeyRole.ACTIVE, facts.id, "queued")]
        if _is_off_line(facts):
            ops.append(op(MendVerb.ENTER, KeyRole.QUEUED, _deadline_ms(facts, at), facts.id))
        yield _about_run(
            facts, DisagreementKind.DISAGREES, "is queued, but was not active; added", *ops
        )
    elif facts.active_count == 0 and facts.held in (None, "1"):
        # No other run ends and pushes it; rescue pushes it at its next pass.
        ops = [
            op(MendVerb.SET, KeyRole.ACTIVE, facts.id, "queued"),
            op(MendVerb.SET, KeyRole.RUN, "unpushed", "1"),
            op(MendVerb.ENTER, KeyRole.QUEUED, at.now_ms, facts.id),
        ]
        if facts.held is not None:
            ops.append(op(MendVerb.UNHOLD, KeyRole.HELD, facts.id))
        yield _about_run(
            facts, DisagreementKind.DISAGREES, "was held for no other run; queued", *ops
        )


def _running(facts: RunFacts, at: MendDeadlines) -> Iterator[Disagreement]:
    ops = []
    if facts.word != "running" and facts.active_kind in ("none", "hash"):
        ops.append(op(MendVerb.SET, KeyRole.ACTIVE, facts.id, "running"))
    if isinstance(facts.queued, str):
        ops.append(op(MendVerb.LEAVE, KeyRole.QUEUED, facts.id))
    if isinstance(facts.held, str):
        ops.append(op(MendVerb.UNHOLD, KeyRole.HELD, facts.id))
    if ops:
        yield _about_run(
            facts, DisagreementKind.DISAGREES, "runs, but its indexes differed; corrected", *ops
        )
    # A heartbeat's deadline is seconds ahead; one far ahead would never be noticed as missing.
    longest_ms = at.now_ms + 10 * (at.heartbeat_ms - at.now_ms)
    last_ms = None if facts.heartbeat is WrongType.TYPE else score(facts.heartbeat)
    if facts.heartbeat is not WrongType.TYPE and (last_ms is None or last_ms > longest_ms):
        one = op(MendVerb.ENTER, KeyRole.HEARTBEATS, at.heartbeat_ms, facts.id)
        yield _about_run(
            facts, DisagreementKind.DISAGREES, "runs without a heartbeat; one was set", one
        )


def _over(facts: RunFacts, at: MendDeadlines) -> Iterator[Disagreement]:
    ops = _off_indexes(facts)
    if ops:
        where = ", ".join(one.role.value for one in ops)
        text = f"is over, but was listed as under way ({where}); removed"
        yield _about_run(facts, DisagreementKind.GHOST, text, *ops)
    if facts.fields.get("delivery") == DeliveryState.PENDING and facts.delivery_due is None:
        one = op(MendVerb.ENTER, KeyRole.DELIVERIES, at.now_ms, facts.id)
        yield _about_run(
            facts, DisagreementKind.DISAGREES, "waited for a delivery without a due time; set", one
        )


def _about_run(
    facts: RunFacts, trouble: DisagreementKind, text: str, *ops: MendWrite
) -> Disagreement:
    owner = facts.job_id if is_job_id(facts.job_id) else ""
    return Disagreement(
        trouble=trouble, subject=facts.id, job_id=owner, text=f"run {facts.id} {text}", ops=ops
    )
