"""Reports runs and deliveries to Celery's monitors, such as Flower.

A monitor knows a task as received, started, and then as succeeded, failed, retried or revoked. A
run that failed or timed out is a failed task; its text says how the run ended: the exit code and
the last line of its output. A run that is tried again is a retried task. A cancelled run, and a
message that was not executed because another worker has the run, is a revoked task, never a
success. The worker of a lost run is silent, so the leading beat reports that run.

No traceback is reported: it would show only our own code.
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
    """A run or delivery did not succeed; the text says how it ended, its record has the rest."""

    def __repr__(self) -> str:
        # Flower shows the repr.
        return str(self)


class OwnTask(Task):  # type: ignore[misc]  # Celery carries no types
    """A task of ours, of which Celery and Flower see the text only, no traceback."""

    abstract = True
    #: A failed run is a failed task for Celery and Flower, but no traceback in the log.
    throws = (RunFailed,)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Remove the traceback from `einfo`, which Celery passes on to the monitors."""
        _without_frames(exc, einfo)

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Remove the traceback, as in `on_failure`."""
        _without_frames(exc, einfo)

    def comes_again(self, text: str) -> NoReturn:
        """Report that another message follows, and end this one. Raises Retry."""
        raise Retry(f"it comes again: {text}", exc=RunFailed(text))

    def not_executed(self, text: str) -> NoReturn:
        """Report that this message executes nothing, and end it. Raises Ignore."""
        tell_revoked(self, text)
        raise Ignore(text)


def tell_revoked(task: Any, text: str) -> None:
    """Report to the monitors that a task's message executes nothing."""
    if not _are_wanted(task.app):
        return
    try:
        task.send_event("task-revoked", retry=False, terminated=False, exception=text)
    except Exception as error:  # noqa: BLE001 - a failed report must not cost a run
        event(_log, "monitors.not_told", level=logging.WARNING, why=error)


def text_of(outcome: Outcome) -> str:
    """Describe in one line how a run ended: exit code and last output line, or its error."""
    if outcome.state is RunState.FAILED and outcome.exit_code:
        said = _last_line(outcome.stderr) or _last_line(outcome.output)
        return _one_line(f"exit code {outcome.exit_code}{f': {said}' if said else ''}")
    return _one_line(outcome.error or outcome.reason or outcome.state.value)


class LostRunReporter:
    """Reports runs of dead workers to the monitors, without delaying the beat."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._is_telling = threading.Lock()

    def tell(self, lost: Sequence[tuple[str, str, str]]) -> None:
        """Report runs, each as the message's Celery id, the job's name, and the run's end.

        It runs in its own thread, one at a time: a broker that does not answer must not stop the
        beat.
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
        except Exception as error:  # noqa: BLE001 - a failed report must not cost a run
            event(_log, "monitors.not_told", level=logging.WARNING, why=error)
        finally:
            self._is_telling.release()


def _are_wanted(app: Celery) -> bool:
    """Return whether to send events; a project's workers may have -E, which only they know."""
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
