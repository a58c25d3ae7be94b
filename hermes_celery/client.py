"""What people do with jobs and runs: the verbs behind the command line and the Python API.

    cron = open_cron()                        # from the environment, as the commands do
    job = cron.add(JobRequest(schedule="every 2h", prompt="..."))
    jobs = cron.add_many(requests)            # all of them or, when one is refused, none
    cron.pause(job.id, reason="holiday")
    run_id = cron.run(job.id)

Every verb checks first and writes last, in one atomic step, so that what is refused leaves no
trace. Changes are compare-and-set on the job's revision.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from hermes_celery.core.built_message import STAND_IN, BuildOutcome, is_stand_in
from hermes_celery.core.fields import DELIVERY
from hermes_celery.core.job import (
    Job,
    JobRequest,
    JobSpec,
    JobState,
    UnreadableJob,
    name_key,
    new_job_id,
)
from hermes_celery.core.job_checks import define
from hermes_celery.core.replanning import edited, resumed
from hermes_celery.core.run import Occurrence, Run, RunState, Trigger, occurrence_at
from hermes_celery.core.unknown_words import is_known
from hermes_celery.errors import Conflict, HermesCeleryError, JobError
from hermes_celery.instant import from_ms, iso, to_ms
from hermes_celery.scheduling.deferred_messages import built_or_fault, ending_of
from hermes_celery.store import (
    Destination,
    DueIndex,
    EarlyEnd,
    Jobs,
    RequestedRun,
    Runs,
    Write,
    Written,
    check_run_id,
)

if TYPE_CHECKING:
    from hermes_celery.clock import Clock
    from hermes_celery.core.declared import RefusedJob
    from hermes_celery.scheduling.planned_runs import BuildsMessages

#: Races that a change repeats when lost, on the job as it stands then.
_RETRIES = 5
_MAX_BACKFILL = 1000
_MAX_PER_MINUTE = 60_000
#: How long a message that is built by whoever asks for the run may take, before the leader does it.
_BUILDING_MS = 20_000
#: Keeps the backfilled run of an occurrence apart from the scheduled one.
_BACKFILL_TAG = "bacf"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRecords:
    """What a namespace holds: its jobs, their runs, and when they are due."""

    jobs: Jobs
    runs: Runs
    due: DueIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChecks:
    """What a job must pass here, beyond its own rules; each raises what is wrong."""

    #: The zone of a job that names none.
    default_timezone: str
    #: That its script and working directory are on this machine.
    files: Callable[[JobSpec], None]
    #: That what it delivers to can be reached.
    delivery: Callable[[JobSpec], None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMessages:
    """How runs that are asked for by hand get their messages."""

    builder: Callable[[], BuildsMessages]
    #: Whether it knows the queues of the project's own tasks. Where it does not, as on the command
    #: line, the leader builds and pushes their messages, and those of every job in a namespace that
    #: is a project's: the default queue is the project's to say as well.
    routes_tasks: bool = True
    is_a_projects: Callable[[], bool] = lambda: False
    #: Says of a job and its queue why nobody follows its runs; "": workers do.
    why_sent: Callable[[JobSpec, str], str] = lambda spec, queue: ""

    def is_left_to_the_leader(self, spec: JobSpec) -> bool:
        """Whether the leader builds and pushes the messages of a job."""
        if self.routes_tasks:
            return False
        is_projects = spec.task is not None or spec.managed_by is not None
        return is_projects or (spec.queue is None and self.is_a_projects())


class Client:
    """The jobs and runs of one namespace."""

    def __init__(
        self,
        records: NamespaceRecords,
        *,
        clock: Clock,
        checks: JobChecks,
        messages: RunMessages,
        refusals: Callable[[], list[RefusedJob]] = list,
    ) -> None:
        """`refusals` reads which declared jobs were refused."""
        self.jobs = records.jobs
        self.runs = records.runs
        self.due = records.due
        self._clock = clock
        self._checks = checks
        self._messages = messages
        self._refusals = refusals

    @property
    def now(self) -> datetime:
        """The server's time, aware UTC."""
        return from_ms(self._clock.now_ms())

    def add(self, request: JobRequest, *, paused: bool = False, check_files: bool = True) -> Job:
        """Store a new job and return it.

        Raises JobError, ScriptError or ScheduleError when the request makes no sense. With
        `check_files` its script and working directory must exist on this machine.
        """
        job = self._new(request, now=self.now, paused=paused)
        if check_files:
            self._checks.files(job.spec)
        self._checks.delivery(job.spec)
        return self.jobs.add(job)

    def add_many(
        self, requests: Iterable[JobRequest], *, paused: bool = False, check_files: bool = True
    ) -> list[Job]:
        """Store many new jobs, some hundreds in one round trip, and return them in order.

        All are checked first: when one is refused, nothing is written, and the JobError says which
        it is and why. Each is stored in one atomic step; raises StoreError when the server refuses
        one, and the others may have been written.
        """
        asked, now = list(requests), self.now
        jobs = self._checked(asked, now=now, paused=paused, check_files=check_files)
        written = self.jobs.write_many([Write(job=job) for job in jobs])
        return [
            self._stored(outcome, request, now=now, paused=paused)
            for outcome, request in zip(written, asked, strict=True)
        ]

    def _new(self, request: JobRequest, *, now: datetime, paused: bool) -> Job:
        spec, first = define(
            request, job_id=new_job_id(), now=now, default_timezone=self._checks.default_timezone
        )
        job = Job(spec=spec, next_run_at=first)
        if paused:
            job = msgspec.structs.replace(job, state=JobState.PAUSED, paused_at=now)
        return job

    def _checked(
        self, requests: list[JobRequest], *, now: datetime, paused: bool, check_files: bool
    ) -> list[Job]:
        jobs, delivered = [], set()
        for number, request in enumerate(requests, start=1):
            try:
                job = self._new(request, now=now, paused=paused)
                if check_files:
                    self._checks.files(job.spec)
                # The targets of many jobs are few, and checking them reads a file.
                targets = tuple(getattr(job.spec, name) for name in sorted(DELIVERY))
                if targets not in delivered:
                    self._checks.delivery(job.spec)
                    delivered.add(targets)
            except HermesCeleryError as error:
                name = request.name or request.schedule
                which = f"job {number:,} of {len(requests):,} ({name!r})"
                raise JobError(f"{which}: {error}; nothing was written") from error
            jobs.append(job)
        return jobs

    def _stored(self, written: Written, request: JobRequest, *, now: datetime, paused: bool) -> Job:
        if isinstance(written, Conflict):
            # Its random id was taken: one chance in thousands for 100,000 jobs beside a million.
            return self.jobs.add(self._new(request, now=now, paused=paused))
        if isinstance(written, HermesCeleryError):
            raise written
        return written

    def edit(
        self,
        reference: str,
        changes: Mapping[str, Any],
        *,
        expected_revision: int | None = None,
        check_files: bool = True,
    ) -> Job:
        """Change fields of a job, named as in JobRequest or Policy, and return it.

        A new schedule begins now; a paused job stays paused. Raises Conflict when somebody changed
        the job since `expected_revision`; without one, a change that was made meanwhile stays where
        this one says nothing of it.
        """

        def change(job: Job) -> Job:
            _refuse_declared(job, "change it there")
            if expected_revision is not None and job.revision != expected_revision:
                raise Conflict(job.id, expected_revision=expected_revision)
            zone = self._checks.default_timezone
            changed = edited(job, changes, now=self.now, default_timezone=zone)
            if check_files:
                self._checks.files(changed.spec)
            if not DELIVERY.isdisjoint(changes):
                self._checks.delivery(changed.spec)
            return changed

        return self._stored_anew(reference, change)

    def pause(self, reference: str, *, reason: str | None = None) -> Job:
        """Stop a job's schedule; runs that were dispatched go on.

        One that is paused stays so since then, with its reason unless there is a new one.
        """

        def paused(job: Job) -> Job:
            if job.state is JobState.PAUSED:
                kept = job.paused_reason if reason is None else reason
                return msgspec.structs.replace(job, paused_reason=kept)
            return msgspec.structs.replace(
                job, state=JobState.PAUSED, paused_at=self.now, paused_reason=reason
            )

        return self._changed(reference, paused)

    def resume(self, reference: str) -> Job:
        """Let a job's schedule go on from now; one that goes on already is left as it is.

        Raises JobError for a one-shot that lies behind.
        """
        return self._changed(reference, lambda job: resumed(job, now=self.now))

    def pause_all(self, *, note: str = "") -> bool:
        """Dispatch nothing any more, of any job; runs that were dispatched go on.

        False where everything was paused before: it stays so, with its note unless there is a new
        one.
        """
        return self.due.pause_all(note=note, now_ms=self._clock.now_ms())

    def resume_all(self) -> bool:
        """Go on from now; occurrences since the pause are recorded as skipped, one-shots run.

        False where not everything was paused: nothing is skipped then.
        """
        return self.due.resume_all(now_ms=self._clock.now_ms())

    def remove(self, reference: str, *, declared: bool = False) -> Job | UnreadableJob:
        """Remove a job, readable or not, and return what it was; its runs stay as history.

        The record of one that cannot be read is moved out of the way, not deleted. Raises JobError
        for one that a project declares, unless `declared` says that this project is no more.
        """
        for _ in range(_RETRIES):
            job = self.jobs.look_up(reference)
            try:
                if isinstance(job, Job):
                    if not declared:
                        _refuse_declared(
                            job,
                            "take it out there, and the beat removes it; where that project is no "
                            f"more: hermes-celery remove --declared {job.id}",
                        )
                    self.jobs.remove(job)
                else:
                    self.jobs.remove_unreadable(job, now_ms=self._clock.now_ms())
            except Conflict:
                continue
            return job
        raise Conflict(job.id, expected_revision=job.revision if isinstance(job, Job) else 0)

    def run(self, reference: str, *, key: str | None = None) -> str:
        """Dispatch one run of a job now, beside its schedule, and return the run's id.

        The same `key` within a day gives the same run, however often it is asked for.
        """
        job = self.jobs.find(reference)
        now_ms = self._clock.now_ms()
        occurrence = Occurrence(job_id=job.id, due_ms=now_ms, manual=secrets.token_hex(4))
        messages = self._messages.builder()
        asked = _asked(job.spec, occurrence, messages)
        is_late = is_stand_in(asked.message)
        if self._messages.is_left_to_the_leader(job.spec):
            # Its queue is the project's to say: the leader knows.
            asked = msgspec.structs.replace(asked, push_at_ms=now_ms)
            is_late = False
        elif is_late:
            # Who asks for it builds it, below; if that fails, the leader does.
            asked = msgspec.structs.replace(asked, push_at_ms=now_ms + _BUILDING_MS)
        queue = messages.queue(job.spec)
        (run_id,) = self.runs.trigger(
            job.spec,
            [asked],
            trigger=Trigger.MANUAL,
            now_ms=now_ms,
            to=Destination(queue=queue, why_sent=self._messages.why_sent(job.spec, queue)),
            key=f"{job.id}:{key}" if key else occurrence.run_id,
        )
        if is_late and run_id == occurrence.run_id:
            self._build_and_push(job.spec, occurrence, messages, seen_ms=now_ms + _BUILDING_MS)
        return run_id

    def _build_and_push(
        self, spec: JobSpec, occurrence: Occurrence, messages: BuildsMessages, *, seen_ms: int
    ) -> None:
        run_id = occurrence.run_id
        built = built_or_fault(messages, spec, run_id=run_id, due_ms=occurrence.due_ms)
        now_ms = self._clock.now_ms()
        if built.way in (BuildOutcome.FAILED, BuildOutcome.NOWHERE):
            state, reason, error = ending_of(built)
            end = EarlyEnd(state=state, reason=reason, error=error)
            self.runs.end_waiting(run_id, end, now_ms=now_ms)
        else:
            self.runs.push_asked(
                run_id,
                built,
                seen_ms=seen_ms,
                now_ms=now_ms,
                why_sent=self._messages.why_sent(spec, built.queue),
            )

    def backfill(
        self,
        reference: str,
        *,
        start: datetime,
        end: datetime,
        one_by_one: bool = True,
        per_minute: int = 60,
    ) -> list[str]:
        """Make a run for each occurrence from `start` up to `end`, both aware, oldest first.

        They run one after the other, or beside each other and `per_minute` of them a minute. The
        ids of the runs that were made come back; an occurrence that was backfilled before, or that
        ran on schedule, is left out. Raises JobError for more than 1,000 occurrences, and for a
        range that ends in the future or before it begins.
        """
        job = self.jobs.find(reference)
        if not 1 <= per_minute <= _MAX_PER_MINUTE:
            raise JobError(f"per_minute is {per_minute}; it must be 1 to {_MAX_PER_MINUTE:,}")
        instants = self._backfilled(job, start=start, end=end)
        messages, now_ms = self._messages.builder(), self._clock.now_ms()
        is_left = self._messages.is_left_to_the_leader(job.spec)
        asked = []
        for position, instant in enumerate(instants):
            occurrence = Occurrence(job_id=job.id, due_ms=to_ms(instant), manual=_BACKFILL_TAG)
            one = _asked(job.spec, occurrence, messages)
            if is_left and not is_stand_in(one.message):
                one = msgspec.structs.replace(one, message=STAND_IN + one.message)
            if one_by_one:
                asked.append(msgspec.structs.replace(one, held=True))
            else:
                push_at_ms = now_ms + position * 60_000 // per_minute
                asked.append(msgspec.structs.replace(one, push_at_ms=push_at_ms))
        if not asked:
            return []
        queue = messages.queue(job.spec)
        return self.runs.trigger(
            job.spec,
            asked,
            trigger=Trigger.BACKFILL,
            now_ms=now_ms,
            to=Destination(queue=queue, why_sent=self._messages.why_sent(job.spec, queue)),
            key=f"backfill:{secrets.token_hex(8)}",
        )

    def never_due(self, reference: str, *, start: datetime, end: datetime) -> str:
        """Say that a job has no occurrence from `start` to `end`; "" where it has one."""
        job = self.jobs.find(reference)
        schedule = job.spec.compiled()
        if schedule.between(start, end, limit=1):
            return ""
        first = schedule.next_after(end)
        text = f"{job.name!r} has no occurrence from {iso(start)} to {iso(end)}; "
        if to_ms(end) < job.spec.created_ms:
            text += f"it was made at {iso(from_ms(job.spec.created_ms))}; "
        return text + ("it has none later either" if first is None else f"the next is {iso(first)}")

    def _backfilled(self, job: Job, *, start: datetime, end: datetime) -> list[datetime]:
        for instant in (start, end):
            if instant > self.now:
                raise JobError(f"{iso(instant)} lies ahead; a backfill ends now at the latest")
        if start > end:
            raise JobError(f"{iso(start)} is after {iso(end)}; give the earlier instant first")
        instants = list(job.spec.compiled().between(start, end, limit=_MAX_BACKFILL + 1))
        if len(instants) > _MAX_BACKFILL:
            raise JobError(
                f"more than {_MAX_BACKFILL:,} occurrences from {iso(start)} to {iso(end)}; "
                "backfill a shorter range, then the next"
            )
        return [
            instant
            for instant in instants
            if not self.runs.has_run(occurrence_at(job.id, instant).run_id)
        ]

    def cancel(self, run_id: str, *, reason: str = "cancelled by hand") -> str:
        """Ask for a run's end: `cancelled`, `asked` (it runs; within a second) or `over`."""
        return self.runs.cancel(check_run_id(run_id), reason=reason, now_ms=self._clock.now_ms())

    def all_jobs(self) -> Iterator[Job]:
        """Every job that can be read, oldest first; `find_jobs` gives the others too."""
        return self.jobs.all()

    def find_jobs(
        self, *, name: str = "", state: JobState | None = None, after: str | None = None
    ) -> Iterator[Job | UnreadableJob]:
        """The jobs in a state whose names begin with `name`, whatever its case, page by page.

        One that cannot be read comes in its place as an UnreadableJob. Oldest first, or with a
        `name` by their names; `after` is the id or name of a job: what follows it.
        Raises JobNotFound or AmbiguousJobReference.
        """
        after_id = None if after is None else self.jobs.look_up(after).id
        return self.jobs.matching(name=name, state=state, after=after_id)

    def refusals(self, *, name: str = "") -> list[RefusedJob]:
        """Declared jobs that are none, or may not work, whose names begin so; see `RefusedJob`."""
        return [one for one in self._refusals() if name_key(one.name).startswith(name_key(name))]

    def show(self, reference: str) -> Job:
        """One job, by id or name. Raises RecordBroken when it cannot be read."""
        return self.jobs.find(reference)

    def latest_runs(
        self,
        reference: str | None = None,
        *,
        state: RunState | None = None,
        since: datetime | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> list[Run]:
        """The latest runs, newest first; `after` is the id of a run: what follows it, older ones.

        Raises JobNotFound, AmbiguousJobReference or RunNotFound.
        """
        job_id = None if reference is None else self.jobs.look_up(reference).id
        return self.runs.latest(job_id=job_id, state=state, since=since, after=after, limit=limit)

    def _changed(self, reference: str, change: Callable[[Job], Job]) -> Job:
        """As `_stored_anew`, of a state that this version knows."""

        def checked(job: Job) -> Job:
            if not is_known(job.state):
                raise JobError(
                    f"job {job.id} is {job.state.value!r}, a state of a newer version of "
                    "hermes-celery; use that version to change it"
                )
            return change(job)

        return self._stored_anew(reference, checked)

    def _stored_anew(self, reference: str, change: Callable[[Job], Job]) -> Job:
        """Change a job as it stands now; again where a tick or somebody else was faster.

        What is so already is left: neither its revision nor its count of failures moves.
        """
        for _ in range(_RETRIES):
            job = self.jobs.find(reference)
            changed = change(job)
            if changed == job and not job.faults:
                return job
            try:
                return self.jobs.change(changed, was=job)
            except Conflict:
                continue
        raise Conflict(job.id, expected_revision=job.revision)


def _refuse_declared(job: Job, advice: str) -> None:
    """Refuse to change what its project's beat would write anew. Raises JobError."""
    manager = job.spec.managed_by
    if manager is not None:
        place = job.spec.declared_in or f"the project {manager.removeprefix('project:')}"
        raise JobError(
            f"job {job.name!r} is declared in {place}; {advice}. `pause`, `resume` and `run` work "
            "here"
        )


def _asked(spec: JobSpec, occurrence: Occurrence, messages: BuildsMessages) -> RequestedRun:
    run_id, due_ms = occurrence.run_id, occurrence.due_ms
    return RequestedRun(
        run_id=run_id,
        message=messages.message(spec, run_id=run_id, due_ms=due_ms),
    )
