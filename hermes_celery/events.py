"""Write log events: a name and fields, one line per fact, through the standard `logging`.

A text line reads `run.finished run=... state=failed`. With HERMES_CELERY_LOG=json every line of the
process is one JSON object.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

#: The events by name, with their meaning. The reference page is made from this table, and a test
#: compares the table with the calls of `event`.
EVENTS: Final[Mapping[str, str]] = {
    "alerts.unsure": "HERMES_CELERY_ALERTS names a target that this machine cannot reach. Another "
    "worker delivers, so this process starts.",
    "beat.leads": "This beat leads from now on. `term` is its fencing token.",
    "beat.other_scheduler": "The beat of a project with `Cron(app)` has a scheduler that "
    "runs none of our jobs.",
    "beat.recovered": "The beat works again after a step or the store failed.",
    "beat.release_failed": "The beat stopped without releasing its lease. A standby takes over "
    "when the lease expires.",
    "beat.stands_by": "This beat no longer leads, or does not lead yet.",
    "beat.step_failed": "A step of the beat ended with an unexpected exception. The beat goes on.",
    "beat.store_failed": "The beat cannot use its server. It tries again.",
    "breaker.broken": "The note that a target did not answer was unreadable, and was deleted.",
    "breaker.not_told": "The server did not take the note that a target answered or timed out.",
    "broker.unsafe": "Celery connects to the broker without encryption, although TLS is set up.",
    "delivery.broken": "A delivery cannot go on. The incident of its job says why.",
    "delivery.claim_lost": "Another worker took this part of the delivery over.",
    "delivery.delivered": "A target took the message.",
    "delivery.done_waits": "The end of an attempt cannot be recorded yet. The worker keeps trying, "
    "and does not send the message again.",
    "delivery.failed": "The last attempt failed, and nothing more is sent to this target.",
    "delivery.not_noted": "The incident of a broken delivery could not be written.",
    "delivery.not_renewed": "The claim of a delivery could not be renewed while its message was "
    "being sent.",
    "delivery.overdue": "Building the message of a delivery took too long. It is tried again.",
    "delivery.pushed": "The leader pushed the Celery message of a delivery that is due.",
    "delivery.retrying": "An attempt failed. The next one follows.",
    "duty.failed": "A duty of the leader failed. It is tried again after the wait in `again_in`.",
    "duty.recovered": "A duty of the leader works again.",
    "failure.not_told": "A run failed, and its incident was not sent again, because it was sent "
    "before or acknowledged.",
    "format.broken": "The record of the storage format is unreadable. The leader replaces it.",
    "format.migrated": "The stored data were migrated to a newer format.",
    "format.unsure": "A newer program wrote the stored data, or their format is unreadable. "
    "Reading goes on.",
    "format.waits": "A migration waits until the older programs in `older` have ended.",
    "heartbeat.failed": "The heartbeats of this worker's runs could not be written.",
    "incident.broken": "The record of an incident is unreadable.",
    "incident.told": "An incident is sent to the person that it concerns.",
    "job.added": "A declared job was added.",
    "job.broken": "A job cannot be planned, and was taken off the schedule.",
    "job.budget_spent": "A job spent its budget for today, and was paused.",
    "job.changed": "A declared job was changed.",
    "job.doubtful": "A declaration was accepted, but probably does not do what was meant.",
    "job.hangs": "Building the message of a job takes too long. Its run fails.",
    "job.moved": "At level INFO: a job was moved to another namespace. At level DEBUG: a job was "
    "edited while it was due, and is planned again.",
    "job.not_moved": "A job stays in the old namespace, because its record is unreadable.",
    "job.not_prepared": "A message could not be built in advance. The tick builds it.",
    "job.not_removed": "A job that is no longer declared could not be removed, because its record "
    "is unreadable.",
    "job.put_off": "A job could not be dispatched now. It is tried again later.",
    "job.refusals_not_noted": "The incidents of refused declarations could not be written.",
    "job.refused": "A declaration is not a valid job. `why` says what to change.",
    "job.removed": "A job that is no longer declared was removed.",
    "job.rewritten": "A declared job whose record was unreadable was written again, as it is "
    "declared.",
    "jobs.gone": "The server lost its data: jobs that were there before are gone.",
    "lease.mended": "A key of the lease had an invalid value, and was repaired.",
    "letter.kept": "A worker could not read a message, and kept it for `hermes-celery letters`.",
    "letter.not_kept": "A worker could not read a message, and could not keep it either.",
    "loss.not_noted": "The note on disk that reveals the loss of all jobs could not be written.",
    "message.put_off": "The message of a job could not be built in this tick. It is built later.",
    "monitors.not_told": "An event for Celery's monitors, such as Flower, could not be sent.",
    "namespace.shared": "Another project declares jobs in the same namespace.",
    "ping.dropped": "Too many pings wait, so this one is not sent.",
    "ping.failed": "A dead-man switch did not take its ping.",
    "presence.failed": "The worker could not announce that it is alive.",
    "program.too_old": "The stored data have become too new for this program, so it stops.",
    "program.unheard": "The program could not announce its version.",
    "project.moved": "All jobs of a project were moved to its own namespace.",
    "project.moves": "The jobs of a project are about to be moved to its own namespace. `why` says "
    "what that waits for.",
    "project.not_moved": "The server refused a step of moving a project's jobs. It is tried again.",
    "project.paused": "Jobs in the old namespace were paused, so they are paused in the new one.",
    "purge.not_noted": "`celery purge` deleted messages whose runs could not be recorded as "
    "cancelled.",
    "queue.foreign": "A queue is consumed only by workers that do not report. Its runs end as "
    "`sent`.",
    "queue.foreign_no_more": "A worker that reports consumes the queue again. Its runs are "
    "followed.",
    "queue.unasked": "Celery's workers could not be asked which queues they consume.",
    "record.broken": "A stored record is unreadable or contradicts itself.",
    "record.not_told": "The incident of an unreadable record could not be written.",
    "repair.failed": "The server refused a repair.",
    "repair.found": "Stored records disagree, and cannot be repaired automatically.",
    "repair.mended": "Stored records disagreed, and were repaired.",
    "repair.more": "More records disagree than are logged one by one.",
    "repair.untold": "The incident of a repair could not be written.",
    "run.beside": "A message that continues a run is executed although the run has ended. The "
    "recorded end stays.",
    "run.cancelled": "A run was cancelled, because its worker shuts down.",
    "run.crashed": "An unexpected exception in this package ended the work of a run.",
    "run.delivery_not_begun": "The delivery of a run's output could not be prepared. The leader "
    "pushes it.",
    "run.dispatched": "The run of a due occurrence was recorded, and its message pushed.",
    "run.end_failed": "The end of a run could not be recorded as it was. It is recorded in a "
    "simpler form, or by the leader.",
    "run.end_lost": "The end of a run whose process is killed could not be recorded. The run "
    "becomes `lost`.",
    "run.end_untold": "A run ended, and its Celery task could not be notified.",
    "run.ended": "Celery ended a run without performing it, or lost its process. `state` is how "
    "the run ended.",
    "run.finish_waits": "The end of a run cannot be recorded yet. The worker keeps trying.",
    "run.finished": "A run ended in `state`.",
    "run.handed_on": "A task handed its run on to another message, for example with `self.retry`.",
    "run.held": "A run was recorded, and waits until the run before it ends.",
    "run.killed": "The process of a run was killed, because the run went on after it was stopped "
    "or was taken from it.",
    "run.known": "The occurrence has its run already. The schedule moved on.",
    "run.lost": "The worker of a run is gone, or its message never came. `then` or `why` says what "
    "follows.",
    "run.not_claimed": "A worker got a message whose run it does not perform. `reason` is `taken` "
    "if the run was performed or is being performed, and `gone` if there is no such run.",
    "run.not_ended": "The end of a run whose process died could not be recorded. The leader does "
    "it.",
    "run.not_mended": "A record that a run needs could not be repaired.",
    "run.not_published": "A run ended without a message. `why` says what prevented it.",
    "run.not_stopped": "A run could not be told to stop.",
    "run.place_kept": "A run could not give up its place in its group. The place ends with its "
    "heartbeat.",
    "run.print_lost": "What a run printed could not be stored for `logs --follow`.",
    "run.push_failed": "The message of an admitted run could not be pushed. Rescue pushes it.",
    "run.redelivered": "The leader pushed the message of a waiting run: a retry is due, or "
    "no worker took the message before.",
    "run.refused": "A worker could not read the message of a run, so the run failed.",
    "run.skipped": "An occurrence was recorded as skipped. `why` is the reason.",
    "run.start_untold": "A run started, and the ping that announces it could not be sent.",
    "run.started": "A worker started a run.",
    "run.stopping": "A run is being stopped. `reason` says why.",
    "run.stuck": "A run was told to stop, and still goes on.",
    "run.stuck_untold": "The incident of a stuck run could not be written.",
    "run.usage_lost": "The tokens and costs of a run could not be recorded.",
    "run.waits": "A run waits again, because its group has no room or its task is to be called "
    "again.",
    "schedule.left_behind": "Another scheduler still has entries that are not jobs here.",
    "schedule.not_looked_at": "The entries of another scheduler could not be read.",
    "setting.ignored": "A variable has a value without effect, and its default is used.",
    "slots.not_looked_at": "The worker could not check its processes for stuck runs.",
    "targets.unreadable": "`targets.toml` is unreadable, so its names cannot be used.",
    "tick.done": "One tick dispatched something. The fields count the due jobs by result.",
    "tick.fenced": "Another beat leads, so a step of this one was refused.",
    "watch.failed": "The worker could not check whether a beat ticks.",
    "worker.cancel_failed": "The worker shuts down, and a run could not be recorded as cancelled.",
    "worker.ended": "The worker ends with a failure. `why` says what to change.",
    "worker.few_files": "The worker may open too few files for its number of runs at once.",
    "worker.unwatched": "The process that kills this worker if it cannot stop did not start.",
    "write.dropped": "Too many writes wait, so the oldest one was dropped.",
    "write.failed": "A write in the background failed, and is not tried again.",
    "write.given_up": "The server did not take a write in the background in time.",
    "writes.no_thread": "The thread for writes in the background could not start. The next write "
    "tries again.",
    "writes.undone": "The process ended its writes in the background with some undone.",
}


def event(
    log: logging.Logger,
    name: str,
    *,
    level: int = logging.INFO,
    exc_info: BaseException | None = None,
    **fields: object,
) -> None:
    """Log one event of `EVENTS`, without the fields that are None.

    `exc_info` adds its traceback.
    """
    if not log.isEnabledFor(level):
        return
    shown = {key: value for key, value in fields.items() if value is not None}
    text = " ".join([name, *(f"{key}={_quoted(value)}" for key, value in shown.items())])
    log.log(level, "%s", text, exc_info=exc_info, extra={"event": name, "fields": shown})


def _quoted(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and " " not in text else repr(text)


class JsonFormatter(logging.Formatter):
    """Formats each record as one JSON object in one line.

    Its keys are time (UTC, ISO 8601), level, logger, event or message, and the event's fields.
    """

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        name = getattr(record, "event", None)
        if name is None:
            line["message"] = record.getMessage()
        else:
            line["event"] = name
            line |= {key: str(value) for key, value in getattr(record, "fields", {}).items()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class RateLimitedLog:
    """Lets a repeated complaint through at once, and then once every `seconds`."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._said_at: float | None = None

    def may_say(self, now: float) -> bool:
        """Return whether to log the complaint now; `now` is monotonic, in seconds."""
        if self._said_at is not None and now - self._said_at < self._seconds:
            return False
        self._said_at = now
        return True

    def over(self) -> bool:
        """Forget the complaint, because its cause is gone. Return whether there was one."""
        was, self._said_at = self._said_at is not None, None
        return was
