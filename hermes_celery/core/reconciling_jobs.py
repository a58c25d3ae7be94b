"""The rules for one job: its record, its index entries and its next instant must agree."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from hermes_celery.core.job import JobSpec, JobState, is_job_id, name_key
from hermes_celery.core.readable import readable
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
from hermes_celery.core.untold_jobs import UntoldJob
from hermes_celery.errors import ScheduleError
from hermes_celery.schedule import ScheduleKind

#: How far ahead a tick moves a job that it could not dispatch.
_PUT_OFF_MS = 60_000
_DAY_MS = 86_400_000
#: A next instant further ahead is compared with the schedule; a nearer one cannot be far off.
FAR_MS = 30 * _DAY_MS
#: A next instant may be this much later than the schedule says now: rules of time zones change.
_MAY_DIFFER_MS = _DAY_MS
#: The form of a state, of this version or a newer one; anything else is garbage.
_WORD = re.compile(r"[a-z][a-z_]{0,39}")


class JobFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The stored facts about one job."""

    id: str
    #: The Redis type of its record; "none" if there is no record.
    kind: str
    fields: Mapping[str, Fact]
    #: The size of its definition in bytes.
    spec_bytes: Fact
    due: Fact = None
    stray: Fact = None
    listed: Fact = None
    completed: Fact = None
    #: The entry that it should have in the index of names, and the entry that was found.
    entry: str = ""
    found: str = ""
    named: Fact = None
    misnamed: Fact = None
    active_kind: str = "none"
    held_kind: str = "none"
    active: Mapping[str, str] = {}
    held: tuple[str, ...] = ()
    #: The key of the due index in which its entry was found; "" for its own.
    stray_index: str = ""

    def number(self, name: str) -> int | None:
        """Return a field as a whole number; None if it is not one."""
        return whole(self.fields.get(name))


class NewPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The new plan of a job without a next instant."""

    #: The next instant in Unix ms; None if the job has had its last run.
    next_ms: int | None = None
    #: Why the job cannot be planned; "" if it can.
    fault: str = ""
    is_once: bool = False


def plan_again(spec: JobSpec | None, *, completed: int, now_ms: int) -> NewPlan:
    """Plan a job from its schedule alone.

    The result is the first instant after now; for a one-shot it is its only instant, past or
    future.
    """
    if spec is None:
        return NewPlan(fault="its definition is unreadable; remove the job and add it again")
    try:
        schedule = spec.compiled()
        is_once = schedule.kind is ScheduleKind.ONCE
        if completed >= (spec.repeat_times or (1 if is_once else completed + 1)):
            return NewPlan(is_once=is_once)
        after_ms = -1 if is_once else now_ms
        return NewPlan(next_ms=schedule.next_after_ms(after_ms), is_once=is_once)
    except ScheduleError as error:
        return NewPlan(fault=f"its schedule cannot be planned: {error}")


def name_entry(spec: JobSpec) -> str:
    """Return a job's member of the index of names."""
    return f"{name_key(spec.name)}\0{spec.id}"


def wants_spec(facts: JobFacts, *, now_ms: int) -> bool:
    """Return whether the rules need the job's definition."""
    if facts.kind != "hash":
        return False
    state, next_ms = _state_of(facts), facts.number("next_ms")
    is_doubtful = state == JobState.SCHEDULED and (next_ms is None or next_ms > now_ms + FAR_MS)
    return is_doubtful or state == JobState.COMPLETED or facts.listed is None


def judge_job(
    facts: JobFacts,
    *,
    at: MendDeadlines,
    spec: JobSpec | None = None,
    fills_completed: bool = False,
) -> list[Disagreement]:
    """Return what is wrong with a job; `spec` is needed if `wants_spec` returns True."""
    if facts.kind == "none":
        return _gone_job(facts)
    if facts.kind != "hash":
        return [_broken_job(facts)]
    found = [*_job_fields(facts, at), *_job_keys(facts), *_job_indexes(facts, at, spec)]
    found += _standing(facts, at, spec)
    if fills_completed and _state_of(facts) == JobState.COMPLETED and facts.completed is None:
        found.append(
            _about_job(
                facts, DisagreementKind.DISAGREES, "is completed and not in that index; added",
                op(MendVerb.ENTER, KeyRole.COMPLETED, at.now_ms, facts.id),
            )
        )  # fmt: skip
    return found


def _gone_job(facts: JobFacts) -> list[Disagreement]:
    """Find the entries of a job that has no record."""
    ops = _entries(facts)
    if not ops:
        return []
    where = ", ".join(one.role.value for one in ops)
    finding = _about_job(
        facts, DisagreementKind.GHOST, f"has entries ({where}) and no record; removed", *ops
    )
    # `remove` deletes these entries and the record in one step, so the record vanished otherwise.
    was_job = isinstance(facts.listed, str) or isinstance(facts.due, str)
    return [_noted_as_gone(facts, finding) if was_job else finding]


def _entries(facts: JobFacts) -> tuple[MendWrite, ...]:
    places = (
        (KeyRole.JOBS, facts.listed, facts.id),
        (KeyRole.DUE, facts.due, facts.id),
        (KeyRole.STRAY, facts.stray, facts.id),
        (KeyRole.COMPLETED, facts.completed, facts.id),
        (KeyRole.NAMES, facts.misnamed, facts.found),
    )
    return tuple(
        op(MendVerb.LEAVE, role, entry) for role, fact, entry in places if isinstance(fact, str)
    )


def _noted_as_gone(facts: JobFacts, finding: Disagreement) -> Disagreement:
    """Add a note to the finding, so that it is reported even if the finder dies first."""
    if not finding.job_id:
        return msgspec.structs.replace(finding, is_job_gone=True)
    # The name is in the entry that is now removed.
    name = readable(facts.found.rpartition("\0")[0]) if isinstance(facts.misnamed, str) else ""
    untold = UntoldJob(job_id=finding.job_id, text=finding.text, name=name)
    note = op(MendVerb.NOTE, KeyRole.SWEEP, untold.field, untold.as_text())
    return msgspec.structs.replace(finding, is_job_gone=True, ops=(note, *finding.ops))


def _broken_job(facts: JobFacts) -> Disagreement:
    finding = _about_job(
        facts,
        DisagreementKind.BROKEN,
        f"is stored as a {facts.kind}, not a hash; moved to quarantine: add the job again",
        op(MendVerb.QUARANTINE, KeyRole.JOB),
        *_entries(facts),
    )
    return _noted_as_gone(facts, finding)


def _job_fields(facts: JobFacts, at: MendDeadlines) -> Iterator[Disagreement]:
    """Find fields that must be numbers and are not; `int` and the scripts would fail on them."""
    # No pending edit can expect this revision.
    fresh = {"revision": str(at.now_ms // 1000), "completed": "0"}
    for name, fact in facts.fields.items():
        is_replanned = name == "next_ms" and _state_of(facts) == JobState.SCHEDULED
        if name == "state" or is_replanned or is_fine(name, fact):
            continue
        if name in fresh:
            one, becomes = op(MendVerb.SET, KeyRole.JOB, name, fresh[name]), f"set to {fresh[name]}"
        else:
            one, becomes = op(MendVerb.CLEAR, KeyRole.JOB, name), "removed"
        yield _about_job(
            facts, DisagreementKind.BROKEN, f"has {name} {fact_text(fact)}; {becomes}", one
        )
    if facts.spec_bytes in (None, "0"):
        yield _about_job(
            facts, DisagreementKind.BROKEN, "has no definition; remove the job, add it again"
        )


def _job_keys(facts: JobFacts) -> Iterator[Disagreement]:
    for role, kind, wanted in (
        (KeyRole.ACTIVE, facts.active_kind, "hash"),
        (KeyRole.HELD, facts.held_kind, "list"),
    ):
        if kind not in ("none", wanted):
            what = f"has its {role.value} runs stored as a {kind}, not a {wanted}"
            yield _about_job(
                facts,
                DisagreementKind.BROKEN,
                f"{what}; moved to quarantine",
                op(MendVerb.QUARANTINE, role),
            )
    if "" in facts.held:
        yield _about_job(
            facts, DisagreementKind.BROKEN, "holds an unreadable run; removed",
            op(MendVerb.UNHOLD, KeyRole.HELD, ""),
        )  # fmt: skip


def _job_indexes(
    facts: JobFacts, at: MendDeadlines, spec: JobSpec | None
) -> Iterator[Disagreement]:
    if facts.listed is None:
        created_ms = spec.created_ms if spec else at.now_ms
        one = op(MendVerb.ENTER, KeyRole.JOBS, created_ms, facts.id)
        yield _about_job(facts, DisagreementKind.DISAGREES, "was in no list of jobs; added", one)
    if facts.entry and facts.named is None:
        one = op(MendVerb.ENTER, KeyRole.NAMES, 0, facts.entry)
        yield _about_job(
            facts, DisagreementKind.DISAGREES, "was not in the index of names; added", one
        )
    if facts.entry and facts.found != facts.entry and isinstance(facts.misnamed, str):
        one = op(MendVerb.LEAVE, KeyRole.NAMES, facts.found)
        yield _about_job(
            facts, DisagreementKind.DISAGREES, "was indexed under another name; removed", one
        )


def _standing(facts: JobFacts, at: MendDeadlines, spec: JobSpec | None) -> Iterator[Disagreement]:
    """Check whether the job is in the due index as its record says, and will run again."""
    state = _state_of(facts)
    stored = facts.fields.get("state")
    if "state" in facts.fields and stored != state:
        one = op(MendVerb.SET, KeyRole.JOB, "state", state)
        what = "no state" if stored is None else f"the state {fact_text(stored)}"
        yield _about_job(facts, DisagreementKind.BROKEN, f"had {what}; set to {state}", one)
    elif state not in set(JobState):
        yield _about_job(
            facts,
            DisagreementKind.BROKEN,
            f"has the state {fact_text(state)}, which this version does not know; remove the job, "
            "or use the version that wrote it",
        )
    if isinstance(facts.stray, str):
        one = op(MendVerb.LEAVE, KeyRole.STRAY, facts.id)
        yield _about_job(
            facts, DisagreementKind.DISAGREES, "was in the due index of another shard; removed", one
        )
    next_ms = facts.number("next_ms")
    if state == JobState.SCHEDULED and next_ms is not None:
        yield from _too_far(facts, next_ms, at, spec) or _due_as_planned(facts, next_ms, at)
    elif state == JobState.SCHEDULED:
        yield from _unplanned(facts, at, spec)
    else:
        yield from _completed_too_early(facts, at, spec)
        if isinstance(facts.due, str) and state in set(JobState):
            one = op(MendVerb.LEAVE, KeyRole.DUE, facts.id)
            yield _about_job(
                facts, DisagreementKind.GHOST, f"is {state} and was in the due index; removed", one
            )


def _state_of(facts: JobFacts) -> str:
    """Return the state; if it is missing or garbage, the state that the job must have had."""
    state = facts.fields.get("state")
    if isinstance(state, str) and _WORD.fullmatch(state):
        return state
    was_paused = facts.fields.get("paused_ms") is not None
    return (JobState.PAUSED if was_paused else JobState.SCHEDULED).value


def _too_far(
    facts: JobFacts, next_ms: int, at: MendDeadlines, spec: JobSpec | None
) -> list[Disagreement]:
    """Find a job whose next instant is later than its schedule's, so that it misses occurrences."""
    if spec is None or next_ms <= at.now_ms + FAR_MS:
        return []
    planned = plan_again(spec, completed=facts.number("completed") or 0, now_ms=at.now_ms)
    if planned.next_ms is None or planned.is_once or next_ms <= planned.next_ms + _MAY_DIFFER_MS:
        return []
    return [_replanned(facts, at, planned, f"had next_ms {next_ms}, later than its schedule says")]


def _due_as_planned(facts: JobFacts, next_ms: int, at: MendDeadlines) -> Iterator[Disagreement]:
    due_ms = score(facts.due)
    # A tick that cannot dispatch a job moves its entry ahead by up to `_PUT_OFF_MS`.
    if facts.due is WrongType.TYPE or due_ms == next_ms:
        return
    if due_ms is not None and next_ms <= due_ms <= at.now_ms + _PUT_OFF_MS:
        return
    what = "was not in the due index" if facts.due is None else "was in it at another time"
    one = op(MendVerb.ENTER, KeyRole.DUE, next_ms, facts.id)
    yield _about_job(facts, DisagreementKind.DISAGREES, f"{what}; set as planned", one)


def _unplanned(facts: JobFacts, at: MendDeadlines, spec: JobSpec | None) -> Iterator[Disagreement]:
    """Check a scheduled job without a next instant: its last run is under way, or it stopped."""
    planned = plan_again(spec, completed=facts.number("completed") or 0, now_ms=at.now_ms)
    is_under_way = bool(facts.active or facts.held) and not planned.fault
    if is_under_way and (planned.is_once or planned.next_ms is None):
        yield from _last_run(facts)
        return
    yield _replanned(facts, at, planned, "has no next instant")


def _last_run(facts: JobFacts) -> Iterator[Disagreement]:
    ops = []
    if isinstance(facts.due, str):
        ops.append(op(MendVerb.LEAVE, KeyRole.DUE, facts.id))
    if facts.fields.get("next_ms") is not None:
        ops.append(op(MendVerb.CLEAR, KeyRole.JOB, "next_ms"))
    if ops:
        text = "has its last run under way and was still planned; taken off the schedule"
        yield _about_job(facts, DisagreementKind.GHOST, text, *ops)


def _completed_too_early(
    facts: JobFacts, at: MendDeadlines, spec: JobSpec | None
) -> Iterator[Disagreement]:
    """Find a completed job whose schedule goes on.

    Its next instant was lost while a run was under way, or its state was overwritten. An imported
    job may have been completed where it comes from.
    """
    if _state_of(facts) != JobState.COMPLETED or spec is None:
        return
    ended_here = isinstance(facts.completed, str) and facts.number("last_run_ms") is not None
    was_planned = spec.managed_by is not None or facts.number("next_ms") is not None
    if not ended_here and not was_planned:
        return
    planned = plan_again(spec, completed=facts.number("completed") or 0, now_ms=at.now_ms)
    if planned.next_ms is not None and not planned.is_once:
        yield _replanned(facts, at, planned, "is completed although it has more instants")


def _replanned(facts: JobFacts, at: MendDeadlines, planned: NewPlan, what: str) -> Disagreement:
    if planned.fault:
        ops = [
            op(MendVerb.SET, KeyRole.JOB, "state", JobState.ERROR, "last_status", "error",
                "last_error", planned.fault),
            op(MendVerb.LEAVE, KeyRole.DUE, facts.id),
        ]  # fmt: skip
        text = f"{what}, and {planned.fault}"
    elif planned.next_ms is None:
        ops = [
            op(MendVerb.SET, KeyRole.JOB, "state", JobState.COMPLETED),
            op(MendVerb.CLEAR, KeyRole.JOB, "next_ms"),
            op(MendVerb.ENTER, KeyRole.COMPLETED, at.now_ms, facts.id),
            op(MendVerb.LEAVE, KeyRole.DUE, facts.id),
        ]
        text = f"{what} and no run under way; it has had its last run and is completed"
    else:
        ops = [
            op(MendVerb.SET, KeyRole.JOB, "state", JobState.SCHEDULED, "next_ms", planned.next_ms),
            op(MendVerb.LEAVE, KeyRole.COMPLETED, facts.id),
            op(MendVerb.ENTER, KeyRole.DUE, planned.next_ms, facts.id),
        ]
        text = f"{what}; planned again from its schedule"
    indexes = {KeyRole.DUE: facts.due, KeyRole.COMPLETED: facts.completed}
    usable = [one for one in ops if indexes.get(one.role) is not WrongType.TYPE]
    return _about_job(facts, DisagreementKind.STOPPED, text, *usable)


def _about_job(
    facts: JobFacts, trouble: DisagreementKind, text: str, *ops: MendWrite
) -> Disagreement:
    owner = facts.id if is_job_id(facts.id) else ""
    return Disagreement(
        trouble=trouble, subject=facts.id, job_id=owner, text=f"job {facts.id} {text}", ops=ops
    )
