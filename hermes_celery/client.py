"""The operations on jobs and runs, behind the command line and the Python API.

    cron = open_cron()                        # from the environment, as the commands do
    job = cron.add(JobRequest(schedule="every 2h", prompt="..."))
    jobs = cron.add_many(requests)            # adds all, or none if one is refused
    cron.pause(job.id, reason="holiday")
    run_id = cron.run(job.id)

Every operation checks first and writes last, in one atomic step, so that a refused one leaves no
trace. A change is written only if the job's revision is still the one that was read.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from hermes_celery.core.arguments import (
    a_text,
    aware,
    finite,
    of_kind,
    stored_text,
    true_or_false,
    whole_within,
    word_or_none,
)
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
    stored_word_of,
    word_of,
)
from hermes_celery.core.job_checks import define
from hermes_celery.core.output import as_text
from hermes_celery.core.replanning import edited, resumed
from hermes_celery.core.run import Occurrence, Run, RunState, Trigger, occurrence_at
from hermes_celery.core.unknown_words import is_known
from hermes_celery.errors import Conflict, HermesCeleryError, JobError, shown
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

#: Attempts of a change; each begins again from the job that another writer has just changed.
_RETRIES = 5
_MAX_BACKFILL = 1000
#: Seconds between two reads of a run that a caller waits for.
_POLL_SECONDS = 0.1
_MAX_PER_MINUTE = 60_000
_MAX_LISTED = 10_000
#: The largest whole number that the server's scripts keep exactly.
_MAX_REVISION = 2**53
#: Characters of a key of `run`: the server keeps each key for a day.
_MAX_KEY = 1000
#: Milliseconds that this process has to build a message before the leader builds it instead.
_BUILDING_MS = 20_000
#: Keeps the backfilled run of an occurrence apart from the scheduled one.
_BACKFILL_TAG = "bacf"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRecords:
    """The records of a namespace: its jobs, their runs, and the due index."""

    jobs: Jobs
    runs: Runs
    due: DueIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChecks:
    """Checks of a job against this machine, beyond the job's own rules; each raises its error."""

    #: The zone of a job that names none.
    default_timezone: str
    #: Checks that the job's script and working directory are on this machine.
    files: Callable[[JobSpec], None]
    #: Checks that the job's delivery targets are valid.
    delivery: Callable[[JobSpec], None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMessages:
    """Builds the messages of runs that a client requests."""

    builder: Callable[[], BuildsMessages]
    #: Whether the builder knows the project's app, and so the queues of its tasks. The command line
    #: without `-A` does not: there the leader builds and pushes the messages of the project's
    #: tasks, and of every job that names no queue, since the project sets the default queue as
    #: well.
    routes_tasks: bool = True
    is_a_projects: Callable[[], bool] = lambda: False
    #: Returns why nobody follows the runs of a job in a queue; "" if workers follow them.
    why_sent: Callable[[JobSpec, str], str] = lambda spec, queue: ""

    def is_left_to_the_leader(self, spec: JobSpec) -> bool:
        """Return whether the leader builds and pushes the messages of a job."""
        if self.routes_tasks:
            return False
        is_projects = spec.task is not None or spec.managed_by is not None
        return is_projects or (spec.queue is None and self.is_a_projects())


class Client:
    """Adds, changes and runs the jobs of one namespace, and reads its runs.

    A `reference` is a job's id or full name. An unknown one raises JobNotFound; a name that several
    jobs have raises AmbiguousJobReference. A wrong argument raises JobError, which names it.
    """

    def __init__(
        self,
        records: NamespaceRecords,
        *,
        clock: Clock,
        checks: JobChecks,
        messages: RunMessages,
        refusals: Callable[[], list[RefusedJob]] = list,
    ) -> None:
        """`refusals` returns the declared jobs that were refused."""
        self.jobs = records.jobs
        self.runs = records.runs
        self.due = records.due
        self._clock = clock
        self._checks = checks
        self._messages = messages
        self._refusals = refusals

    @property
    def now(self) -> datetime:
        """The server's time, as an aware datetime in UTC."""
        return from_ms(self._clock.now_ms())

    def add(self, request: JobRequest, *, paused: bool = False, check_files: bool = True) -> Job:
        """Store a new job and return it.

        With `check_files`, its script and working directory must exist on this machine. Raises
        JobError, ScriptError or ScheduleError for an invalid request.
        """
        request = of_kind(request, name="request", kind=JobRequest)
        paused = true_or_false(paused, name="paused")
        check_files = true_or_false(check_files, name="check_files")
        job = self._new(request, now=self.now, paused=paused)
        if check_files:
            self._checks.files(job.spec)
        self._checks.delivery(job.spec)
        return self.jobs.add(job)

    def add_many(
        self, requests: Iterable[JobRequest], *, paused: bool = False, check_files: bool = True
    ) -> list[Job]:
        """Store many new jobs and return them in order; one round trip stores some hundreds.

        All are checked first: if one is refused, nothing is written, and the JobError names it and
        says why. Each job is then stored in one atomic step. Raises StoreError when the server
        refuses one; the others may have been written by then.
        """
        paused = true_or_false(paused, name="paused")
        check_files = true_or_false(check_files, name="check_files")
        given = of_kind(requests, name="requests", kind=Iterable)
        asked = [
            of_kind(one, name=f"requests[{at}]", kind=JobRequest) for at, one in enumerate(given)
        ]
        now = self.now
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
                # Many jobs share few targets, and checking a target reads a file.
                targets = tuple(getattr(job.spec, name) for name in sorted(DELIVERY))
                if targets not in delivered:
                    self._checks.delivery(job.spec)
                    delivered.add(targets)
            except HermesCeleryError as error:
                name = request.name or request.schedule
                which = f"job {number:,} of {len(requests):,} ({shown(name)})"
                raise JobError(f"{which}: {error}; nothing was written") from error
            jobs.append(job)
        return jobs

    def _stored(self, written: Written, request: JobRequest, *, now: datetime, paused: bool) -> Job:
        if isinstance(written, Conflict):
            # Its random id was already in use: with 100,000 new jobs beside a million stored ones,
            # the chance of one such clash is one in thousands.
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
        """Change fields of a job, named as in JobRequest or Policy, and return the job.

        A new schedule begins now; a paused job stays paused. Raises Conflict when the job is not at
        `expected_revision` any more. Without an expected revision, fields that are not in `changes`
        keep what others changed meanwhile.
        """
        changes = of_kind(changes, name="changes", kind=Mapping)
        check_files = true_or_false(check_files, name="check_files")
        if expected_revision is not None:
            expected_revision = whole_within(
                expected_revision, name="expected_revision", low=1, high=_MAX_REVISION
            )

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
        """Stop a job's schedule and return the job; dispatched runs continue.

        A job that is already paused keeps its pause time; it keeps its reason too, unless you give
        a new one. Raises JobError for a reason that cannot be stored.
        """
        if reason is not None:
            reason = stored_text(reason, name="reason")

        def paused(job: Job) -> Job:
            if job.state is JobState.PAUSED:
                kept = job.paused_reason if reason is None else reason
                return msgspec.structs.replace(job, paused_reason=kept)
            return msgspec.structs.replace(
                job, state=JobState.PAUSED, paused_at=self.now, paused_reason=reason
            )

        return self._changed(reference, paused)

    def resume(self, reference: str) -> Job:
        """Resume a job's schedule from now on and return the job.

        A job whose schedule is active stays as it is. Raises JobError for a one-shot whose time has
        passed.
        """
        return self._changed(reference, lambda job: resumed(job, now=self.now))

    def pause_all(self, *, note: str = "") -> bool:
        """Stop the dispatch of all jobs in the namespace; dispatched runs continue.

        Returns False if all jobs were already paused. The pause time then stays, and so does the
        note, unless you give a new one. Raises JobError for a note that cannot be stored.
        """
        note = stored_text(note, name="note")
        return self.due.pause_all(note=note, now_ms=self._clock.now_ms())

    def resume_all(self) -> bool:
        """Resume all schedules from now on.

        Occurrences since the pause are recorded as skipped; one-shots run. Returns False if
        no `pause_all` was in force; nothing is skipped then.
        """
        return self.due.resume_all(now_ms=self._clock.now_ms())

    def remove(self, reference: str, *, declared: bool = False) -> Job | UnreadableJob:
        """Remove a job and return it; its runs are kept as history.

        An unreadable job is removed as well: its record is moved to quarantine, not deleted. Raises
        JobError for a job that a project declares, unless `declared` says that the project no
        longer exists.
        """
        declared = true_or_false(declared, name="declared")
        for _ in range(_RETRIES):
            job = self.jobs.look_up(reference)
            try:
                if isinstance(job, Job):
                    if not declared:
                        _refuse_declared(
                            job,
                            "remove it there, and the beat removes it; if that project no longer "
                            f"exists: hermes-celery remove --declared {job.id}",
                        )
                    self.jobs.remove(job)
                else:
                    self.jobs.remove_unreadable(job, now_ms=self._clock.now_ms())
            except Conflict:
                continue
            return job
        raise Conflict(job.id, expected_revision=job.revision if isinstance(job, Job) else 0)

    def run(self, reference: str, *, key: str | None = None) -> str:
        """Dispatch one run of a job now, in addition to its schedule, and return the run's id.

        The same `key` within 24 hours returns the same run instead of a second one. It has at most
        1,000 characters.
        """
        if key is not None:
            key = stored_text(key, name="key", most=_MAX_KEY)
        job = self.jobs.find(reference)
        now_ms = self._clock.now_ms()
        occurrence = Occurrence(job_id=job.id, due_ms=now_ms, manual=secrets.token_hex(4))
        messages = self._messages.builder()
        asked = _asked(job.spec, occurrence, messages)
        is_late = is_stand_in(asked.message)
        if self._messages.is_left_to_the_leader(job.spec):
            # Only the project's app knows the job's queue, and the leader has the app.
            asked = msgspec.structs.replace(asked, push_at_ms=now_ms)
            is_late = False
        elif is_late:
            # This process builds the message below; if that fails, the leader builds it.
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
        """Make a run for each occurrence from `start` to `end`, both included, oldest first.

        `start` and `end` are aware datetimes. The runs follow one another; with `one_by_one=False`
        they may overlap, and `per_minute` of them start each minute. Returns the ids of the new
        runs. An occurrence that has a run, from its schedule or an earlier backfill, is left out.
        Raises JobError for more than 1,000 occurrences, and for a range that ends in the future or
        before it begins.
        """
        one_by_one = true_or_false(one_by_one, name="one_by_one")
        job = self.jobs.find(reference)
        per_minute = whole_within(per_minute, name="per_minute", low=1, high=_MAX_PER_MINUTE)
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
        """Return a sentence if a job has no occurrence from `start` to `end`; "" if it has one."""
        job = self.jobs.find(reference)
        schedule = job.spec.compiled()
        start, end = aware(start, name="start"), aware(end, name="end")
        if schedule.between(start, end, limit=1):
            return ""
        first = schedule.next_after(end)
        text = f"{shown(job.name)} has no occurrence from {iso(start)} to {iso(end)}; "
        if to_ms(end) < job.spec.created_ms:
            text += f"the job was created at {iso(from_ms(job.spec.created_ms))}; "
        return text + ("it has none later either" if first is None else f"the next is {iso(first)}")

    def _backfilled(self, job: Job, *, start: datetime, end: datetime) -> list[datetime]:
        for instant in (aware(start, name="start"), aware(end, name="end")):
            if instant > self.now:
                raise JobError(f"{iso(instant)} is in the future; a backfill ends at the present")
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
        """Request the end of a run.

        Returns `cancelled` if it was queued, `asked` if it is running (it ends within a second), or
        `over` if it had already ended. Raises RunNotFound.
        """
        run_id, reason = check_run_id(run_id), stored_text(reason, name="reason")
        return self.runs.cancel(run_id, reason=reason, now_ms=self._clock.now_ms())

    def all_jobs(self) -> Iterator[Job]:
        """Yield every readable job, oldest first; `find_jobs` also yields unreadable ones."""
        return self.jobs.all()

    def find_jobs(
        self, *, name: str = "", state: JobState | str | None = None, after: str | None = None
    ) -> Iterator[Job | UnreadableJob]:
        """Yield the jobs in a state whose names begin with `name`, ignoring case.

        `state` is a JobState or its word, such as "paused".

        They come oldest first; with a `name`, sorted by name. `after` is the id or name of a job:
        only those that follow it are yielded. An unreadable job comes as an UnreadableJob. Jobs are
        read page by page. Raises JobNotFound or AmbiguousJobReference.
        """
        wanted = word_or_none(
            state, name="state", kind=JobState, stored=stored_word_of, seen=word_of
        )
        name = a_text(name, name="name")
        after_id = None if after is None else self.jobs.look_up(a_text(after, name="after")).id
        return self.jobs.matching(name=name, state=wanted, after=after_id)

    def refusals(self, *, name: str = "") -> list[RefusedJob]:
        """Return the declared jobs that were refused or may not work; see `RefusedJob`.

        Only those whose names begin with `name`, ignoring case.
        """
        key = name_key(a_text(name, name="name"))
        return [one for one in self._refusals() if name_key(one.name).startswith(key)]

    def show(self, reference: str) -> Job:
        """Return one job, by id or name. Raises RecordBroken when it is unreadable."""
        return self.jobs.find(reference)

    def latest_runs(
        self,
        reference: str | None = None,
        *,
        state: RunState | str | None = None,
        since: datetime | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> list[Run]:
        """Return the latest runs, newest first: of all jobs or of one, in any state or in one.

        `state` is a RunState or its word, such as "failed". `since`, an aware datetime, leaves out
        runs queued before it. `after` is the id of a run: only older runs are returned. `limit` is
        1 to 10,000. Raises JobNotFound, AmbiguousJobReference or RunNotFound.
        """
        wanted = word_or_none(state, name="state", kind=RunState)
        limit = whole_within(limit, name="limit", low=1, high=_MAX_LISTED)
        if since is not None:
            since = aware(since, name="since")
        if after is not None:
            after = a_text(after, name="after")
        job_id = None if reference is None else self.jobs.look_up(reference).id
        return self.runs.latest(job_id=job_id, state=wanted, since=since, after=after, limit=limit)

    def show_run(self, run_id: str) -> Run:
        """Return one run. Raises RunNotFound."""
        return self.runs.get(check_run_id(run_id))

    def wait(self, run_id: str, *, seconds: float) -> Run:
        """Return a run as it ended, or as it stands after `seconds`. Raises RunNotFound.

        `seconds` is a finite number; 0 or less returns the run as it stands now.
        """
        deadline = time.monotonic() + finite(seconds, name="seconds")
        while True:
            run = self.show_run(run_id)
            if run.state.is_final or time.monotonic() >= deadline:
                return run
            time.sleep(_POLL_SECONDS)

    def output(self, run_id: str) -> str:
        """Return what a run has printed, or what its task has returned. Raises RunNotFound.

        Up to 1 MiB is stored. Until the run ends, this is the output so far.
        """
        return as_text(self.runs.output(self.show_run(run_id).id))

    def _changed(self, reference: str, change: Callable[[Job], Job]) -> Job:
        """Change a job whose state this version knows; otherwise as `_stored_anew`."""

        def checked(job: Job) -> Job:
            if not is_known(job.state):
                raise JobError(
                    f"job {job.id} is {shown(job.state.value)}, a state of a newer version of "
                    "hermes-celery; use that version to change it"
                )
            return change(job)

        return self._stored_anew(reference, checked)

    def _stored_anew(self, reference: str, change: Callable[[Job], Job]) -> Job:
        """Change a job and store it; begin again if a tick or another client changed it meanwhile.

        A change that changes nothing is not stored: revision and failure count stay.
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
    """Raise JobError for a declared job: its project's beat would undo the change."""
    manager = job.spec.managed_by
    if manager is not None:
        place = job.spec.declared_in or f"the project {manager.removeprefix('project:')}"
        raise JobError(
            f"job {shown(job.name)} is declared in {place}; {advice}. `pause`, `resume` and `run` "
            "work here"
        )


def _asked(spec: JobSpec, occurrence: Occurrence, messages: BuildsMessages) -> RequestedRun:
    run_id, due_ms = occurrence.run_id, occurrence.due_ms
    return RequestedRun(
        run_id=run_id,
        message=messages.message(spec, run_id=run_id, due_ms=due_ms),
    )
