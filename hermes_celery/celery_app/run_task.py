"""The Celery task of every run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hermes_celery.celery_app.collaborators import collaborators_of
from hermes_celery.celery_app.flower_texts import OwnTask, RunFailed, text_of
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.errors import SessionError
from hermes_celery.running.taken_message import TakenMessage
from hermes_celery.session import HEADER, Session, from_header

if TYPE_CHECKING:
    from hermes_celery.running.runner import Runner


class RunTask(OwnTask):
    """The task of every run; it makes its runner once per process, after any fork."""

    abstract = True
    #: The worker's node name and main process id: unique even if two workers share a node name.
    worker = ""
    _runner: tuple[int, Runner] | None = None

    def perform(self, run_id: str) -> str:
        """Perform one run; Flower shows what it returns or raises.

        Raises RunFailed when the run failed or timed out, Retry when it comes again, and Ignore
        when it was cancelled or another message performs it.
        """
        heard: list[Outcome] = []
        answer = self.runner_here().perform(
            run_id,
            message=TakenMessage(
                worker=self.worker or str(self.request.hostname), id=str(self.request.id or "")
            ),
            session=self._session(),
            hear=heard.append,
        )
        if answer == "full":
            self.comes_again("its group is full")
        if not heard:
            self.not_executed(answer)
        return self._ended(answer, heard[-1])

    def _ended(self, answer: str, outcome: Outcome) -> str:
        if answer == RunState.SUCCEEDED:
            return answer
        text = text_of(outcome)
        if answer == "retry":
            self.comes_again(text)
        if answer == RunState.CANCELLED:
            self.not_executed(text)
        raise RunFailed(text if answer == outcome.state else f"{answer}: {text}")

    def _session(self) -> Session | SessionError:
        headers = self.request.headers or {}
        try:
            return from_header(headers.get(HEADER, getattr(self.request, HEADER, None)))
        except SessionError as error:
            return error

    def runner_here(self) -> Runner:
        """Return the runner of this process."""
        cls = type(self)
        if cls._runner is None or cls._runner[0] != os.getpid():
            cls._runner = (os.getpid(), collaborators_of(self.app).runner())
        return cls._runner[1]
