"""What projects declare, as their beats say it of themselves, and what of it is no job.

Values only; `store.declarations` keeps them and `celery_app.declarer` decides with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

#: Names in one sentence.
_NAMED = 3


class RefusedJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A declared job that is none, or one that may not work, and what to write instead."""

    name: str
    #: The id that the job has, or would have.
    job_id: str
    #: Where it is declared.
    where: str
    #: One sentence.
    why: str
    #: False: it is a job, and this is what to look at.
    is_refused: bool = True

    @property
    def text(self) -> str:
        """All of it in one line."""
        word = "is refused" if self.is_refused else "may not work"
        return f"job {self.name!r} of {self.where} {word}: {self.why}"

    def as_json(self) -> dict[str, Any]:
        """The same names as a job's, as far as there are any."""
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
    """What one living beat declares."""

    #: Which project it is: the name of its app, and the module that has its `Cron(app)`.
    project: str
    #: The module that has its `Cron(app)`, where `celery -A` finds the app; "": none can import it.
    module: str = ""
    #: The names of the jobs by their ids.
    jobs: Mapping[str, str] = {}


def foreign(mine: Declaration, others: Mapping[str, Declaration]) -> dict[str, Declaration]:
    """The beats of other projects, by their names."""
    return {name: one for name, one in others.items() if one.project != mine.project}


def additional(mine: Declaration, others: Mapping[str, Declaration]) -> dict[str, str]:
    """The names, by id, of the jobs that other living beats declare and this one does not."""
    return {
        job_id: name
        for one in others.values()
        for job_id, name in one.jobs.items()
        if job_id not in mine.jobs
    }


def sharing_text(projects: Sequence[str], names: Sequence[str], *, namespace: str) -> str:
    """What to say where the beats of one namespace do not declare the same jobs."""
    shown = ", ".join(names[:_NAMED]) + (", ..." if names[_NAMED:] else "")
    lost = f"; jobs of one that does not lead are not written: {shown}" if names else ""
    who = (
        f"beats of different projects are in namespace {namespace!r} ({'; '.join(projects)})"
        if len(projects) > 1
        else f"beats of {projects[0]} in namespace {namespace!r} do not declare the same jobs"
    )
    return (
        f"{who}{lost}; for two projects write Cron(app, namespace=...) in one of them, for two "
        "releases of one stop the beats of the older"
    )
