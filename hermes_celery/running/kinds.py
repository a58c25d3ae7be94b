"""Map each kind of work to the object that performs it in this worker: agent, script or request."""

from __future__ import annotations

from collections.abc import Callable

from hermes_celery.core.job import JobSpec
from hermes_celery.core.run import Outcome
from hermes_celery.core.work import WorkKind
from hermes_celery.errors import JobError
from hermes_celery.running.agent import AgentRunner, Outputs
from hermes_celery.running.heartbeat import RunningRun
from hermes_celery.running.http import HttpRunner
from hermes_celery.running.orphan_reaper import OrphanReaper
from hermes_celery.running.runner import Performer
from hermes_celery.running.script import ScriptRunner
from hermes_celery.running.worker_machine import WorkerMachine
from hermes_celery.session import Session
from hermes_celery.settings import Settings, process_environment


class UnknownTask:
    """Fails a Celery task's run that reached a worker without the task."""

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        """Raise JobError."""
        raise JobError(
            f"the job calls the Celery task {spec.task.name if spec.task else '?'}, which only the "
            "workers of its own project can run"
        )


def make_work(settings: Settings, *, outputs: Outputs) -> Callable[[JobSpec], Performer]:
    """Return a function that returns the performer for a job on this machine.

    `outputs` returns the latest output of another job.
    """
    machine = WorkerMachine(
        home=settings.home,
        environment=process_environment(),
        reaper=OrphanReaper(),
        redact=settings.redact,
    )
    script = ScriptRunner(
        machine,
        passthrough=settings.env_passthrough,
        timeout_seconds=settings.script_timeout_seconds,
        interpreter_dirs=settings.interpreter_dirs,
    )
    agent = AgentRunner(
        machine,
        template=settings.agent_command,
        scripts=script,
        outputs=outputs,
        timeout_seconds=settings.agent_timeout_seconds,
        idle_seconds=settings.idle_timeout_seconds,
    )
    http = HttpRunner(allow_private=settings.http_allow_private, redact=settings.redact)
    kinds: dict[WorkKind, Performer] = {
        WorkKind.AGENT: agent,
        WorkKind.SCRIPT: script,
        WorkKind.HTTP: http,
        WorkKind.TASK: UnknownTask(),
    }

    def work_for(spec: JobSpec) -> Performer:
        return kinds[spec.kind]

    return work_for
