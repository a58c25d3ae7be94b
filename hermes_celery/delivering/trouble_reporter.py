"""Count a trouble as an incident, and send a notice when the incident begins or ends.

`core.incidents` decides when and how often to send one. A notice is a delivery without a run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from hermes_celery.core.incidents import Incident, Trouble, is_worth_telling
from hermes_celery.errors import RecordBroken
from hermes_celery.events import event
from hermes_celery.store import ToldIncident

if TYPE_CHECKING:
    from hermes_celery.store import Deliveries, Incidents

#: A command that a text tells the reader to type.
_COMMAND = re.compile(r"(?:→ |, or |`)hermes-celery (?=[a-z])")
_log = logging.getLogger(__name__)


class TroubleReporter:
    """Turns a trouble into an incident and, if it is worth it, into a notice."""

    def __init__(
        self,
        *,
        incidents: Incidents,
        deliveries: Deliveries,
        alerts: str,
        send_now: Callable[[str], None] = lambda _: None,
        command_options: Callable[[int], str] = lambda now_ms: "",
    ) -> None:
        """Take the collaborators; `alerts` is the target for troubles that concern no single job.

        `send_now` delivers a notice from this process if no worker can. `command_options`
        returns the options to insert after `hermes-celery` in commands to type.
        """
        self._incidents = incidents
        self._deliveries = deliveries
        self._alerts = alerts
        self._send_now = send_now
        self._command_options = command_options

    def tell(self, trouble: Trouble, *, now_ms: int) -> bool:
        """Count a trouble, and send a notice if one is due; return whether one is sent."""
        trouble = self._addressed(trouble, now_ms)
        noted = self._incidents.report(trouble, now_ms=now_ms)
        if not is_worth_telling(noted.count, told=noted.told, is_acked=noted.is_acked):
            return False
        event(_log, "incident.told", level=logging.WARNING, incident=noted.id, count=noted.count)
        notice = f"notice-{noted.id}-{noted.count}-{now_ms}"
        is_new = self._deliveries.notice(
            notice,
            f"⚠️ {trouble.text}",
            deliver=trouble.deliver or self._alerts,
            # Alerts have no origin and no job name, even if they are about one job.
            job_id=trouble.job_id if trouble.deliver else "",
            told=ToldIncident(id=noted.id, count=noted.count),
            now_ms=now_ms,
        )
        if is_new and trouble.from_here:
            self._send_now(notice)
        return is_new

    def _addressed(self, trouble: Trouble, now_ms: int) -> Trouble:
        """Insert this app's or namespace's options into the commands of a trouble's text."""
        if not _COMMAND.search(trouble.text):
            return trouble
        try:
            options = self._command_options(now_ms)
        except RecordBroken:
            return trouble
        text = _COMMAND.sub(lambda found: found[0] + options, trouble.text)
        return msgspec.structs.replace(trouble, text=text)

    def over(self, incidents: list[Incident], text: str, *, now_ms: int) -> None:
        """End incidents, and send a notice to `alerts` for each that was reported."""
        for incident in incidents:
            closed = self._incidents.close(
                [incident], job_id=incident.job_id, now_ms=now_ms, worked_ms=now_ms
            )
            if not closed or not incident.told:
                continue
            # A count beyond the reported one, so that this notice is sent too.
            count = incident.told + 1
            self._deliveries.notice(
                f"notice-{incident.id}-{count}-{now_ms}",
                f"✅ {text}",
                deliver=self._alerts,
                job_id="",
                told=ToldIncident(id=incident.id, count=count),
                now_ms=now_ms,
            )
