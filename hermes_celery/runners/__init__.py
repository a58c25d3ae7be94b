"""The kinds of work a run can be: one module each, plus the child process they share."""

from __future__ import annotations

from collections.abc import Callable

from hermes_celery.errors import JobError
from hermes_celery.job import JobSpec
from hermes_celery.run import Outcome
from hermes_celery.runners.child import Stop
from hermes_celery.runners.reaper import Reaper
from hermes_celery.runners.script import ScriptRunner
from hermes_celery.session import Session
from hermes_celery.settings import Settings, process_environment


class Refusal:
    """Work that this version cannot do: it fails the run and says so."""

    def __init__(self, why: str) -> None:
        self._why = why

    def perform(self, spec: JobSpec, session: Session, stop: Stop) -> Outcome:
        """Raise JobError."""
        raise JobError(self._why)


def make_work(settings: Settings) -> Callable[[JobSpec], ScriptRunner | Refusal]:
    """Which work a job is, on this machine."""
    script = ScriptRunner(
        home=settings.home,
        environment=process_environment(),
        passthrough=settings.env_passthrough,
        timeout_seconds=settings.script_timeout_seconds,
        reaper=Reaper(),
    )
    agent = Refusal(
        "agent jobs cannot run yet: this version performs script jobs (no_agent) only. "
        "Leave the job with Hermes, or make it a script job"
    )

    def work_for(spec: JobSpec) -> ScriptRunner | Refusal:
        return script if spec.no_agent else agent

    return work_for
