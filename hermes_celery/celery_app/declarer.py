"""Decides when the leader of a namespace writes a project's declarations as jobs.

The leader writes them when it takes the lead. It writes again when a job that it held back may be
written: jobs that move from another namespace, and jobs that another living beat declares. Nobody
removes the latter (an older release that still runs, or another project by mistake). Refused
declarations are stored for `list`, `show` and `doctor` until a beat starts that declares them
differently or not at all.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from hermes_celery.celery_app.declared_by_app import read_requests
from hermes_celery.core.counted import counted
from hermes_celery.core.declared import Declaration, RefusedJob, additional, foreign, sharing_text
from hermes_celery.core.incidents import Trouble, TroubleKind, incident_id
from hermes_celery.core.job import UnreadableJob
from hermes_celery.errors import StoreError, cut, shown
from hermes_celery.events import RateLimitedLog, event
from hermes_celery.instant import from_ms
from hermes_celery.interop.beat_schedule import (
    WHOLE,
    entry_name,
    with_defaults,
)
from hermes_celery.interop.cron_attributes import (
    DECLARED,
    REFUSED,
    entries_of,
    manager_of,
    module_of,
    place_of,
    project_of,
)
from hermes_celery.scheduling.declared_jobs import managed_id, synchronise
from hermes_celery.scheduling.sweep import stored_subject
from hermes_celery.store import WRITES

if TYPE_CHECKING:
    from celery import Celery

    from hermes_celery.core.incidents import ReportsTroubles
    from hermes_celery.core.work import TaskCall
    from hermes_celery.scheduling.namespace_move import NamespaceMove
    from hermes_celery.store import Declarations, Incidents, Jobs

_log = logging.getLogger(__name__)
_LOOK_EVERY_MS = 3_000
#: Longer than it takes a replaced beat to disappear: it signs off, or falls silent for ten seconds.
_PATIENCE_MS = 15_000
#: How often the leader counts whether all declared jobs exist: one command for 1,000 jobs.
_COUNT_EVERY_MS = 5_000
_SHARING, _MORE = "sharing", "more"
#: Refusals that have an incident each; one incident covers the rest.
_TOLD = 20


class Declarer(Protocol):
    """The leader's part that keeps declared jobs up to date."""

    def begin(self, now_ms: int) -> None:
        """Begin as a new leader."""

    def step(self, now_ms: int) -> None:
        """Continue; called in each pass of rescue."""

    def stop(self) -> None:
        """End."""


class NoDeclarer:
    """Declares nothing and removes nothing."""

    def begin(self, now_ms: int) -> None:
        """Do nothing."""

    def step(self, now_ms: int) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


def declaration_of(app: Celery) -> Declaration:
    """Return the project of an app and the ids and names of the jobs that it declares."""
    entries = map(entry_name, with_defaults(app))
    names = [*entries, *getattr(app, DECLARED, {}), *getattr(app, REFUSED, {})]
    manager = manager_of(app)
    jobs = {managed_id(manager, name): name for name in names}
    return Declaration(project=project_of(app), module=module_of(app), jobs=jobs)


def doubt_about_call(app: Celery, call: TaskCall | None) -> str:
    """Return why a call may fail, as far as this process can tell; "" if it knows no reason."""
    if call is None:
        return ""
    task = app.tasks.get(call.name)
    if task is None:
        return (
            f"app {shown(app.main)} has no task {shown(call.name)}; check the name, and the "
            "imports, unless the workers of another project have it"
        )
    check = getattr(task, "__header__", None) if task.typing else None
    try:
        if check is not None:
            check(*call.args, **call.kwargs)
    except TypeError as error:
        return f"the task {call.name} does not take its arguments: {error}"
    return ""


class DeclarationIncidents:
    """Opens and closes the incidents about declared jobs."""

    def __init__(self, reporter: ReportsTroubles, incidents: Incidents) -> None:
        self._reporter = reporter
        self._incidents = incidents

    def tell(self, kind: TroubleKind, subject: str, text: str, *, now_ms: int) -> None:
        """Open an incident, or update it."""
        self._reporter.tell(Trouble(kind=kind, subject=subject, text=text), now_ms=now_ms)

    def over(self, kind: TroubleKind, subject: str, text: str, *, now_ms: int) -> None:
        """Close the incident if it is open."""
        mine = incident_id(kind, subject)
        found = [one for one in self._incidents.of_job("") if one.id == mine]
        self._reporter.over(found, text, now_ms=now_ms)

    def over_of_jobs(self, ids: Sequence[str], *, now_ms: int) -> None:
        """Close the incidents that say that the records of these jobs are unreadable."""
        if not ids:
            return
        over = {incident_id(TroubleKind.BROKEN, stored_subject(one)): one for one in ids}
        for one in self._incidents.of_job(""):
            if one.id in over:
                text = f"job {over[one.id]} was written again as it is declared"
                self._reporter.over([one], text, now_ms=now_ms)


class NamespaceSharing:
    """Finds other beats in this beat's namespace that declare something else."""

    def __init__(
        self, app: Celery, declarations: Declarations, *, owner: str, namespace: str
    ) -> None:
        self._app = app
        self._declarations = declarations
        self._owner = owner
        self._namespace = namespace
        self._mine: Declaration | None = None
        self._since_ms: int | None = None
        self._complaint = RateLimitedLog()
        self._others: dict[str, Declaration] = {}
        self._looked_ms = -_LOOK_EVERY_MS

    @property
    def is_alone(self) -> bool:
        """True if the last check found no such beat."""
        return self._since_ms is None

    @property
    def mine(self) -> Declaration:
        """The declaration of this beat."""
        if self._mine is None:
            self._mine = declaration_of(self._app)
        return self._mine

    def say(self, now_ms: int) -> None:
        """Store what this beat declares, and log which projects share its namespace."""
        self._declarations.say(self._owner, self.mine)
        text = self.text(now_ms)
        if text and self._complaint.may_say(now_ms / 1000):
            event(_log, "namespace.shared", level=logging.WARNING, why=text)

    def others(self, now_ms: int) -> dict[str, Declaration]:
        """Return the other beats, read every few seconds. Raises StoreError."""
        if now_ms - self._looked_ms >= _LOOK_EVERY_MS:
            self._looked_ms = now_ms
            living = self._declarations.living(now_ms=now_ms)
            self._others = {name: one for name, one in living.items() if name != self._owner}
        return self._others

    def text(self, now_ms: int) -> str:
        """Describe other projects in this namespace, and beats that declare more for too long.

        "" if there are none, or if they have been seen for too short a time to matter.
        """
        others = self.others(now_ms)
        strangers = foreign(self.mine, others)
        more = additional(self.mine, strangers or others)
        if not strangers and not more:
            self._since_ms = None
            return ""
        if self._since_ms is None:
            self._since_ms = now_ms
        patience = _PATIENCE_MS if strangers else 4 * _PATIENCE_MS
        if now_ms - self._since_ms < patience:
            return ""
        projects = sorted({self.mine.project, *(one.project for one in strangers.values())})
        return sharing_text(projects, sorted(more.values()), namespace=self._namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclarationRecords:
    """The stores of a project's jobs and of its refused declarations."""

    jobs: Jobs
    declarations: Declarations


class ProjectDeclarer:
    """The leader's part that writes a project's declared jobs."""

    def __init__(
        self,
        app: Celery,
        records: DeclarationRecords,
        *,
        sharing: NamespaceSharing,
        troubles: DeclarationIncidents,
        default_timezone: str,
        moving: NamespaceMove | None,
    ) -> None:
        """`moving` moves jobs here from another namespace; None if there can be none."""
        self._app = app
        self._jobs = records.jobs
        self._declarations = records.declarations
        self._sharing = sharing
        self._troubles = troubles
        self._default_timezone = default_timezone
        self._moving = moving
        self._kept: frozenset[str] | None = None
        #: How many declared jobs had a record after the last whole write, and how many stored jobs
        #: the project managed. They change only with a write: one that failed is due again.
        self._present = 0
        self._managed = 0
        self._counted_ms = 0
        #: The declared job at which the next search for unreadable jobs begins, and those found.
        self._looked_at = 0
        self._unreadable: set[str] = set()
        #: The text of the open incident; None if an earlier leader may have left one open.
        self._said: str | None = None

    def begin(self, now_ms: int) -> None:
        """Write the declared jobs as a new leader. Raises StoreError."""
        self._kept = None
        self._unreadable = set()
        self._said = None
        self._write_if_new(self._moving is None or self._moving.begin(now_ms), now_ms)

    def step(self, now_ms: int) -> None:
        """Write what was held back and may be written now. Raises StoreError."""
        self._write_if_new(self._moving is None or self._moving.step(now_ms), now_ms)
        self._tell_of_sharing(now_ms)

    def stop(self) -> None:
        """Stop the second beat that runs while jobs move."""
        if self._moving is not None:
            self._moving.stop()

    def _tell_of_sharing(self, now_ms: int) -> None:
        text = self._sharing.text(now_ms)
        if text and text != self._said:
            self._troubles.tell(TroubleKind.NAMESPACE, _SHARING, text, now_ms=now_ms)
            self._said = text
        elif not text and (self._said or (self._said is None and self._sharing.is_alone)):
            self._troubles.over(
                TroubleKind.NAMESPACE, _SHARING, "one project is in the namespace", now_ms=now_ms
            )
            self._said = ""

    def _write_if_new(self, may_write: bool, now_ms: int) -> None:
        left = frozenset() if self._moving is None else self._moving.left
        others = self._sharing.others(now_ms)
        contested = self._contested(foreign(self._sharing.mine, others))
        kept = left | frozenset(additional(self._sharing.mine, others)) | frozenset(contested)
        if may_write and (kept != self._kept or self._have_jobs_changed(now_ms)):
            # Until the write is whole, it is due again at the next step.
            self._kept = None
            is_whole = self._write(now_ms, kept=kept, contested=contested)
            self._present, self._managed = self._counts()
            self._counted_ms = now_ms
            # Jobs that others kept changing meanwhile are written at the next step.
            self._kept = kept if is_whole else None

    def _have_jobs_changed(self, now_ms: int) -> bool:
        """Return whether a declared job vanished or became unreadable, or managed jobs appeared.

        They appear when the sweep adds jobs to the lost set of the managed jobs: those that are
        declared no more are to be removed.
        """
        if now_ms - self._counted_ms < _COUNT_EVERY_MS:
            return False
        self._counted_ms = now_ms
        present, managed = self._counts()
        is_unreadable = self._find_unreadable()
        return is_unreadable or present < self._present or managed > self._managed

    def _find_unreadable(self) -> bool:
        """Return whether a declared job became unreadable; look at one page of them per call."""
        ids = list(self._sharing.mine.jobs)
        page = ids[self._looked_at : self._looked_at + WRITES]
        self._looked_at = self._looked_at + WRITES if len(page) == WRITES else 0
        found = {
            job_id for job_id, job in self._jobs.get_many(page).items()
            if isinstance(job, UnreadableJob) and not job.is_newer
        } if page else set()  # fmt: skip
        is_new = bool(found - self._unreadable)
        self._unreadable = (self._unreadable - set(page)) | found
        return is_new

    def _counts(self) -> tuple[int, int]:
        """Return how many declared jobs have a record, and how many jobs the project manages."""
        return (
            self._jobs.count_of(list(self._sharing.mine.jobs)),
            self._jobs.count_managed(manager_of(self._app)),
        )

    def _contested(self, strangers: Mapping[str, Declaration]) -> dict[str, str]:
        """Return our jobs that another project's beat declared first: job id -> its project."""
        mine = self._sharing.mine.jobs
        shared = {
            job_id: one.project for one in strangers.values() for job_id in one.jobs
            if job_id in mine
        }  # fmt: skip
        stored = self._jobs.get_many(list(shared)) if shared else {}
        return {
            job_id: shared[job_id]
            for job_id, job in stored.items()
            if not isinstance(job, UnreadableJob)
            and job.spec.declared_in not in (None, place_of(self._app, mine[job_id]))
        }

    def _write(self, now_ms: int, *, kept: frozenset[str], contested: Mapping[str, str]) -> bool:
        """Write the declared jobs; return whether all are written. Raises StoreError."""
        read = read_requests(self._app, default_timezone=self._default_timezone)
        declared, reasons, twice = read.declared, read.refused, read.twice
        # A stored job keeps running until its new declaration is valid or is removed.
        unread = {managed_id(declared.manager, name) for name in reasons}
        if WHOLE in reasons:
            readable = {managed_id(declared.manager, name) for name in declared.requests}
            unread |= set(self._jobs.managed_by(declared.manager)) - readable
        for name, why in reasons.items():
            event(_log, "job.refused", level=logging.ERROR, job=cut(name), why=why)
        report = synchronise(self._jobs, declared, now=from_ms(now_ms), left=kept | unread)
        rewritten = [managed_id(declared.manager, name) for name in report.rewritten]
        self._unreadable.difference_update(rewritten)
        reasons = {**reasons, **report.refused}
        for job_id, project in contested.items():
            name = self._sharing.mine.jobs[job_id]
            reasons[name] = (
                f"{project} declares a job of that name in this namespace; give one of the two "
                "projects a namespace of its own: Cron(app, namespace=...)"
            )
        warnings = {
            name: why for name, request in declared.requests.items()
            if name not in reasons | twice and (why := doubt_about_call(self._app, request.task))
        }  # fmt: skip
        refusals = [self._refusal(name, why) for name, why in reasons.items()]
        # Here the declaration of `cron.add` is the job. If that is refused too, only its own
        # refusal is reported.
        refusals += [self._second(name, why) for name, why in twice.items() if name not in reasons]
        self._note(refusals, warnings, rewritten, now_ms=now_ms)
        return not report.has_more

    def _note(
        self,
        refusals: list[RefusedJob],
        warnings: Mapping[str, str],
        rewritten: Sequence[str],
        *,
        now_ms: int,
    ) -> None:
        doubts = [
            msgspec.structs.replace(self._refusal(name, why), is_refused=False)
            for name, why in warnings.items()
        ]
        for one in doubts:
            event(_log, "job.doubtful", level=logging.WARNING, job=cut(one.name), why=one.why)
        try:
            over = self._declarations.note_refusals([*refusals, *doubts])
            for one in refusals[:_TOLD]:
                self._troubles.tell(TroubleKind.DECLARED, _subject(one), one.text, now_ms=now_ms)
            self._tell_of_more(len(refusals) - _TOLD, now_ms=now_ms)
            for one in (*over, *doubts):
                self._troubles.over(
                    TroubleKind.DECLARED,
                    _subject(one),
                    f"job {shown(one.name)} is no longer refused",
                    now_ms=now_ms,
                )
            self._troubles.over_of_jobs(rewritten, now_ms=now_ms)
        except StoreError as error:
            # The jobs are written; the log has the refusals.
            event(_log, "job.refusals_not_noted", level=logging.WARNING, why=error)

    def _tell_of_more(self, count: int, *, now_ms: int) -> None:
        """Keep one incident for all refusals beyond the first ones."""
        if count > 0:
            text = counted(count, "more declared job is refused", "more declared jobs are refused")
            text += "; `hermes-celery doctor` lists them"
            self._troubles.tell(TroubleKind.DECLARED, _MORE, text, now_ms=now_ms)
        else:
            text = "fewer declared jobs are refused"
            self._troubles.over(TroubleKind.DECLARED, _MORE, text, now_ms=now_ms)

    def _refusal(self, name: str, why: str) -> RefusedJob:
        return RefusedJob(
            name=name,
            job_id=managed_id(manager_of(self._app), name),
            where=place_of(self._app, name),
            why=why,
        )

    def _second(self, name: str, why: str) -> RefusedJob:
        """Return the refusal of an entry whose name a job of `Cron.add` has."""
        event(_log, "job.refused", level=logging.ERROR, job=cut(name), why=why)
        where = entries_of(self._app)
        return msgspec.structs.replace(self._refusal(name, why), where=where)


def _subject(refusal: RefusedJob) -> str:
    """Return the subject of a refusal's incident: a hash, since a job's name may be any text."""
    return hashlib.sha256(refusal.name.encode("utf-8", "replace")).hexdigest()[:12]
