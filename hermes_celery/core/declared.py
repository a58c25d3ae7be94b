"""Describe the jobs that projects declare, and the declarations that cannot be jobs.

Values only. `store.declarations` keeps them, and `celery_app.declarer` decides with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hermes_celery.errors import shown

#: Number of names that one sentence lists.
_NAMED = 3


class RefusedJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A declaration that is refused, or that may not work, and what to write instead."""

    name: str
    #: The id of the job, or the one that it would have.
    job_id: str
    #: The place of its declaration.
    where: str
    #: What is wrong, in one sentence.
    why: str
    #: False if the job is stored nevertheless, and this is only a warning.
    is_refused: bool = True

    @property
    def text(self) -> str:
        """The refusal or warning in one line."""
        word = "is refused" if self.is_refused else "may not work"
        return f"job {shown(self.name)} of {self.where} {word}: {self.why}"

    def as_json(self) -> dict[str, Any]:
        """Return the values under the keys of a job's JSON, as far as they apply."""
        return {
            "id": self.job_id,
            "name": self.name,
            "state": "refused",
            "enabled": False,
            "next_run_at": None,
            "declared_in": self.where,
            "fault": self.why,
        }


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs that one living beat declares."""

    #: The project: the name of its app, and the module with its `Cron(app)`.
    project: str
    #: The module with its `Cron(app)`, where `celery -A` finds the app; "" if it is not importable.
    module: str = ""
    #: Job ids and their names.
    jobs: Mapping[str, str] = {}


def foreign(mine: Declaration, others: Mapping[str, Declaration]) -> dict[str, Declaration]:
    """Return the beats of other projects, by name."""
    return {name: one for name, one in others.items() if one.project != mine.project}


def additional(mine: Declaration, others: Mapping[str, Declaration]) -> dict[str, str]:
    """Return the names, by job id, of jobs that only other living beats declare."""
    return {
        job_id: name
        for one in others.values()
        for job_id, name in one.jobs.items()
        if job_id not in mine.jobs
    }


def sharing_text(projects: Sequence[str], names: Sequence[str], *, namespace: str) -> str:
    """Describe the problem when the beats of one namespace declare different jobs."""
    shown = ", ".join(names[:_NAMED]) + (", ..." if names[_NAMED:] else "")
    lost = f"; jobs of a beat that does not lead are not stored: {shown}" if names else ""
    who = (
        f"beats of different projects are in namespace {namespace!r} ({'; '.join(projects)})"
        if len(projects) > 1
        else f"beats of {projects[0]} in namespace {namespace!r} do not declare the same jobs"
    )
    return (
        f"{who}{lost}; if they are two projects, write Cron(app, namespace=...) in one of them; if "
        "they are two releases of one project, stop the beats of the older one"
    )
