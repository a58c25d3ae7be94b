"""What Celery's own monitors, such as Flower, are told of runs and deliveries.

They know a task as received, started, and then as succeeded, failed, retried or revoked. A run that
failed or timed out is a failed task, whose text is how the run ended: its exit code and what it
said last. One that is tried again is a retried task. What was cancelled, or was not executed since
somebody else has the run, is a revoked task, and never a success. Where a run is lost, its worker
says nothing any more, so the leading beat does.

No traceback is told: it would show our own code only.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from celery import Task
from celery.exceptions import Ignore, Retry

from hermes_celery.core.output import as_text
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.events import event

if TYPE_CHECKING:
    from celery import Celery

_log = logging.getLogger(__name__)
_LONGEST_TEXT = 300


class RunFailed(Exception):
    """A run or a delivery ended otherwise than well; its text says how, its record has the rest."""

    def __repr__(self) -> str:
        # What Flower shows.
        return str(self)


class OwnTask(Task):  # type: ignore[misc]  # Celery carries no types
    """A task of ours: what Celery and Flower hear of it is its text alone."""

    abstract = True
    #: A failed run is a failed task for Celery and Flower, but no traceback in the log.
    throws = (RunFailed,)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Celery's hook; what it hands on to the monitors is `einfo`."""
        _without_frames(exc, einfo)

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Celery's hook, as `on_failure`."""
        _without_frames(exc, einfo)

    def comes_again(self, text: str) -> NoReturn:
        """Say that another message follows, and end this one."""
        raise Retry(f"it comes again: {text}", exc=RunFailed(text))

    def not_executed(self, text: str) -> NoReturn:
        """Say that this message executes nothing (any more), and end it."""
        tell_revoked(self, text)
        raise Ignore(text)


def tell_revoked(task: Any, text: str) -> None:
    """Tell the monitors that a task's message executes nothing (any more)."""
    if not _are_wanted(task.app):
        return
    try:
        task.send_event("task-revoked", retry=False, terminated=False, exception=text)
    except Exception as error:  # noqa: BLE001 - what monitors hear costs no run
        event(_log, "monitors.not_told", level=logging.WARNING, why=error)


def text_of(outcome: Outcome) -> str:
    """How a run ended, in one line: its exit code and what it said last, or its error."""
    if outcome.state is RunState.FAILED and outcome.exit_code:
        said = _last_line(outcome.stderr) or _last_line(outcome.output)
        return _one_line(f"exit code {outcome.exit_code}{f': {said}' if said else ''}")
    return _one_line(outcome.error or outcome.reason or outcome.state.value)


class LostRunReporter:
    """Tells the monitors of runs whose worker cannot: it died. Holds up nobody."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._is_telling = threading.Lock()

    def tell(self, lost: Sequence[tuple[str, str, str]]) -> None:
        """The Celery id of each message, the job's name, and what became of the run.

        In a thread of its own, one at a time: a broker that does not answer must not stop the beat.
        """
        if not lost or not _are_wanted(self._app) or not self._is_telling.acquire(blocking=False):
            return
        threading.Thread(target=self._tell, args=(tuple(lost),), daemon=True).start()

    def _tell(self, lost: Sequence[tuple[str, str, str]]) -> None:
        try:
            with self._app.events.default_dispatcher() as dispatcher:
                for message_id, name, text in lost:
                    dispatcher.send(
                        "task-failed",
                        uuid=message_id,
                        name=name,
                        exception=text,
                        traceback="",
                        retry=False,
                    )
        except Exception as error:  # noqa: BLE001 - what monitors hear costs no run
            event(_log, "monitors.not_told", level=logging.WARNING, why=error)
        finally:
            self._is_telling.release()


def _are_wanted(app: Celery) -> bool:
    """Whether there are events; a project's workers may have -E, which nobody else is told."""
    return bool(app.conf.worker_send_task_events or not app.conf.get("hermes_is_own_app"))


def _without_frames(exc: Any, einfo: Any) -> None:
    if isinstance(exc, RunFailed):
        einfo.traceback = ""


def _last_line(content: bytes) -> str:
    lines = as_text(content).strip().splitlines()
    return lines[-1].strip() if lines else ""


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[: _LONGEST_TEXT - 3]}..."
