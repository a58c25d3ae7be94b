"""Check a history: was an occurrence lost, started twice, late, or made up?

Modelled on Jepsen's checker of Chronos (2015). The schedules name the occurrences that had to be
(the targets). The runs are matched to them, and what is left on either side is a fault. Chronos'
runs did not name their target, so Jepsen had to search for the best assignment;
`start_matching.match` does that for such histories. Our run ids are computed from job and nominal
instant. So a record or a start fits exactly one target, and the largest matching is the only one.

The checker is a pure function of values. Its faults:

    lost        an occurrence without a record; a run that succeeded but never started; a run that
                is still queued or running when everything is at rest; a trigger that was answered
                and has no record
    doubled     two starts of one attempt; more attempts than the record has; a second attempt of a
                job that allows one; two records of one occurrence
    late        the first start came later after its instant than the bound
    unexpected  a start without a record, or of a run whose record says it never began; a record of
                an instant that is in no schedule

A skipped occurrence is accounted for by its record and the reason. One record may stand for a span
of them ("missed: 3 occurrences, A to B"), and then their number must be right.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta

import msgspec

from hermes_celery.core.run import Run, RunState, occurrence_at
from tests.proof.history import History, Span

_SPAN = re.compile(r"(\w+): (more than )?([\d,]+) occurrences?, (\S+)(?: to (\S+))?")
_MILLISECOND = timedelta(milliseconds=1)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One fault in a history."""

    run_id: str
    what: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a check: counts, and the faults by kind."""

    #: Occurrences that the schedules required.
    targets: int
    #: Runs that started, triggered ones included.
    started: int
    #: Counts of runs that did not succeed, by state; skipped ones by the first word of the reason.
    told: Mapping[str, int]
    lost: tuple[Finding, ...]
    doubled: tuple[Finding, ...]
    late: tuple[Finding, ...]
    unexpected: tuple[Finding, ...]
    #: Longest time from a scheduled run's nominal instant to its first claim.
    max_lateness: timedelta

    @property
    def valid(self) -> bool:
        """True if there is no fault."""
        return not (self.lost or self.doubled or self.late or self.unexpected)

    def faults(self) -> str:
        """Return the first five faults of each kind as readable text."""
        kinds = {name: getattr(self, name) for name in ("lost", "doubled", "late", "unexpected")}
        return "\n".join(
            f"{name} {len(found)}: " + "; ".join(f"{f.run_id} {f.what}" for f in found[:5])
            for name, found in kinds.items()
            if found
        )


class _Target(msgspec.Struct, frozen=True, kw_only=True):
    """One occurrence of a schedule."""

    job_id: str
    due_at: datetime
    required: bool

    @property
    def run_id(self) -> str:
        return occurrence_at(self.job_id, self.due_at).run_id


def check(history: History, *, late_after: timedelta) -> Verdict:
    """Return the verdict on a history that has come to rest."""
    targets = _targets(history.spans)
    records = {run.id: run for run in history.records}
    covered = _covered(history.scheduled)
    starts = Counter((start.run_id, start.attempt) for start in history.starts)
    may_repeat = {span.job_id for span in history.spans if span.may_repeat}
    bounds = {span.job_id: span.late_after for span in history.spans if span.late_after}
    return Verdict(
        targets=sum(target.required for target in targets.values()),
        started=len({run_id for run_id, _ in starts}),
        told=_told(history.records),
        lost=(
            *_without_record(targets, records, covered),
            *_unanswered(history.asked, records),
            *_unfinished(history.records),
            *_never_started(history.records, starts),
        ),
        doubled=(
            *_twice_recorded(history.scheduled),
            *_twice_started(starts, records, may_repeat),
        ),
        late=tuple(_late(history.scheduled, bounds, late_after)),
        unexpected=(
            *_unknown_starts(starts, records),
            *_unknown_records(history.scheduled, targets),
            *_wrong_spans(history.scheduled, targets),
        ),
        max_lateness=max((_lateness(run) for run in history.scheduled), default=timedelta(0)),
    )


def _targets(spans: Iterable[Span]) -> dict[str, _Target]:
    """Return targets by run id; a target is required if any span requires it."""
    found: dict[str, _Target] = {}
    for span in spans:
        settled = span.end if span.settled_until is None else span.settled_until
        begin = span.start + _MILLISECOND
        for due_at in span.schedule.between(begin, span.end, limit=span.limit):
            target = _Target(job_id=span.job_id, due_at=due_at, required=due_at <= settled)
            if target.required or target.run_id not in found:
                found[target.run_id] = target
    return found


class _Cover(msgspec.Struct, frozen=True, kw_only=True):
    """The span of occurrences that one skipped record stands for."""

    run: Run
    first: datetime
    last: datetime
    count: int
    at_least: bool

    def __contains__(self, due_at: datetime) -> bool:
        return self.first <= due_at <= self.last


def _cover(run: Run) -> _Cover | None:
    found = _SPAN.fullmatch(run.reason or "") if run.state is RunState.SKIPPED else None
    if found is None:
        return None
    first = datetime.fromisoformat(found[4])
    return _Cover(
        run=run,
        first=first,
        last=datetime.fromisoformat(found[5]) if found[5] else first,
        count=int(found[3].replace(",", "")),
        at_least=bool(found[2]),
    )


def _covered(records: Iterable[Run]) -> Mapping[str, list[_Cover]]:
    """Return by job id the spans that its skipped records stand for."""
    covers: dict[str, list[_Cover]] = defaultdict(list)
    for run in records:
        cover = _cover(run)
        if cover is not None:
            covers[run.job_id].append(cover)
    return covers


def _told(records: Iterable[Run]) -> Mapping[str, int]:
    words = (
        (run.reason or "").partition(":")[0] if run.state is RunState.SKIPPED else run.state.value
        for run in records
        if run.state is not RunState.SUCCEEDED
    )
    return dict(Counter(words))


def _without_record(
    targets: Mapping[str, _Target],
    records: Mapping[str, Run],
    covered: Mapping[str, list[_Cover]],
) -> Iterator[Finding]:
    for run_id, target in targets.items():
        if not target.required or run_id in records:
            continue
        if not any(target.due_at in cover for cover in covered.get(target.job_id, ())):
            yield Finding(run_id=run_id, what="has no record")


def _unanswered(asked: Iterable[str], records: Mapping[str, Run]) -> Iterator[Finding]:
    for run_id in sorted(asked):
        if run_id not in records:
            yield Finding(run_id=run_id, what="was triggered and has no record")


def _unfinished(records: Iterable[Run]) -> Iterator[Finding]:
    for run in records:
        if not run.state.is_final:
            yield Finding(run_id=run.id, what=f"is {run.state.value} for ever")


def _never_started(
    records: Iterable[Run], starts: Mapping[tuple[str, int], int]
) -> Iterator[Finding]:
    for run in records:
        if run.state is RunState.SUCCEEDED and not starts.get((run.id, run.attempt)):
            yield Finding(run_id=run.id, what="succeeded, but never started")


def _twice_recorded(records: Iterable[Run]) -> Iterator[Finding]:
    occurrences = Counter((run.job_id, run.due_at) for run in records)
    for (job_id, due_at), count in occurrences.items():
        if count > 1:
            run_id = occurrence_at(job_id, due_at).run_id
            yield Finding(run_id=run_id, what=f"has {count} records")


def _twice_started(
    starts: Mapping[tuple[str, int], int], records: Mapping[str, Run], may_repeat: set[str]
) -> Iterator[Finding]:
    for (run_id, attempt), count in starts.items():
        run = records.get(run_id)
        if count > 1:
            yield Finding(run_id=run_id, what=f"started {count} times (attempt {attempt})")
        elif run is not None and attempt > run.attempt:
            yield Finding(run_id=run_id, what=f"started attempt {attempt} of {run.attempt}")
        elif attempt > 1 and run is not None and run.job_id not in may_repeat:
            yield Finding(run_id=run_id, what=f"started attempt {attempt}; its job allows one")


def _late(
    records: Iterable[Run], bounds: Mapping[str, timedelta], bound: timedelta
) -> Iterator[Finding]:
    for run in records:
        if _lateness(run) > bounds.get(run.job_id, bound):
            late_by = _lateness(run).total_seconds()
            yield Finding(run_id=run.id, what=f"started {late_by:.3f} s late")


def _lateness(run: Run) -> timedelta:
    """Return how late a first attempt started; later attempts count as 0."""
    if run.started_at is None or run.attempt > 1:
        return timedelta(0)
    return run.started_at - run.due_at


def _unknown_starts(
    starts: Mapping[tuple[str, int], int], records: Mapping[str, Run]
) -> Iterator[Finding]:
    for run_id, _ in starts:
        run = records.get(run_id)
        if run is None:
            yield Finding(run_id=run_id, what="started, but has no record")
        elif run.state is RunState.SKIPPED or (run.state.is_final and run.started_at is None):
            yield Finding(run_id=run_id, what=f"started, but its record says {run.state.value}")


def _unknown_records(records: Iterable[Run], targets: Mapping[str, _Target]) -> Iterator[Finding]:
    for run in records:
        expected = occurrence_at(run.job_id, run.due_at).run_id
        if expected not in targets:
            yield Finding(run_id=run.id, what=f"{run.due_at.isoformat()} is in no schedule")
        elif run.id != expected:
            yield Finding(run_id=run.id, what="does not have the id of its occurrence")


def _wrong_spans(records: Iterable[Run], targets: Mapping[str, _Target]) -> Iterator[Finding]:
    """Yield the skipped records that name a wrong number of occurrences."""
    dues: dict[str, list[datetime]] = defaultdict(list)
    for target in targets.values():
        dues[target.job_id].append(target.due_at)
    for run in records:
        cover = _cover(run)
        if cover is None:
            continue
        count = sum(due_at in cover for due_at in dues[run.job_id])
        if count < cover.count or (count > cover.count and not cover.at_least):
            yield Finding(
                run_id=run.id, what=f"skips {cover.count} occurrences; there were {count}"
            )
