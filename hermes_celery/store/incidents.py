"""Incidents: repeated troubles as one counted record each, indexed by last time and by job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hermes_celery.core.incidents import Incident, Trouble, TroubleKind
from hermes_celery.errors import RecordBroken
from hermes_celery.instant import from_ms
from hermes_celery.store.database import Database
from hermes_celery.store.record_fields import Fields

_KEEP_SECONDS = 30 * 86_400
#: Later than any stored instant, Unix ms.
_EVER_MS = 10**15


class IncidentStanding(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an incident after a trouble was counted."""

    id: str
    count: int
    told: int
    is_acked: bool


class Incidents:
    """Reads and writes the incidents of one namespace.

    All times are the server's, Unix milliseconds.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def report(self, trouble: Trouble, *, now_ms: int) -> IncidentStanding:
        """Count a trouble: once for each run; without a run, once until it is over."""
        keys = self._keys
        count, told, acked = self._database.run(
            "incident_note",
            keys={
                "incident": keys.incident(trouble.incident_id),
                "incidents": keys.incidents,
                "of_job": keys.troubles(trouble.job_id),
                "delivery": keys.delivery(trouble.run_id),
            },
            args={
                "id": trouble.incident_id,
                "now_ms": now_ms,
                "kind": trouble.kind.stored,
                "job_id": trouble.job_id,
                "job_name": trouble.job_name,
                "text": trouble.text,
                "run_id": trouble.run_id,
                "keep_seconds": _KEEP_SECONDS,
                "sort": trouble.kind.value,
            },
        )
        return IncidentStanding(
            id=trouble.incident_id, count=int(count), told=int(told), is_acked=acked == "1"
        )

    def close(
        self,
        incidents: Sequence[Incident],
        *,
        job_id: str,
        now_ms: int,
        worked_ms: int,
        delivery_id: str = "",
        recovery: str = "",
    ) -> int:
        """Close the incidents that last happened before `worked_ms`; return how many were open.

        If any was open, store `recovery` in the delivery's record, to be sent to people.
        """
        if not incidents:
            return 0
        keys = self._keys
        return int(
            self._database.run(
                "incident_close",
                keys={
                    "incidents": keys.incidents,
                    "of_job": keys.troubles(job_id),
                    "delivery": keys.delivery(delivery_id),
                },
                args={
                    "now_ms": now_ms,
                    "worked_ms": worked_ms,
                    "keep_seconds": _KEEP_SECONDS,
                    "recovery": recovery,
                },
                more_keys=[keys.incident(incident.id) for incident in incidents],
                more_args=[incident.id for incident in incidents],
            )
        )

    def end(self, incidents: Sequence[Incident], *, job_id: str, now_ms: int) -> int:
        """Close all given incidents of a removed job; return how many were open."""
        return self.close(incidents, job_id=job_id, now_ms=now_ms, worked_ms=_EVER_MS)

    def of_gone_jobs(self, *, limit: int = 1000) -> list[Incident]:
        """Return open incidents of removed jobs, except those that report why a job vanished."""
        found = [
            one
            for one in self.open(limit=limit)
            if one.job_id and one.kind is not TroubleKind.BROKEN
        ]
        commands = [("EXISTS", self._keys.job(incident.job_id)) for incident in found]
        answers = self._database.call_many(commands) if commands else []
        return [one for one, is_there in zip(found, answers, strict=True) if is_there == 0]

    def ack(self, incident_id: str, *, now_ms: int) -> str:
        """Acknowledge an incident.

        Returns `ok`, `before` if it was acknowledged before, or `gone` if no such incident is open.
        """
        answer = self._database.run(
            "incident_ack",
            keys={
                "incident": self._keys.incident(incident_id),
                "incidents": self._keys.incidents,
            },
            args={"id": incident_id, "now_ms": now_ms},
        )
        return str(answer)

    def of_job(self, job_id: str) -> list[Incident]:
        """Return the open incidents of a job, oldest first; "" for incidents without a job."""
        ids = self._database.call("SMEMBERS", self._keys.troubles(job_id))
        return sorted(self._read(list(ids)), key=lambda incident: incident.first_at)

    def open(self, *, limit: int = 1000) -> list[Incident]:
        """Return at most `limit` open incidents, the latest first."""
        return self._read(self._database.call("ZREVRANGE", self._keys.incidents, 0, limit - 1))

    def count(self) -> int:
        """Return the number of open incidents."""
        return int(self._database.call("ZCARD", self._keys.incidents))

    def quiet_since(self, before_ms: int, *, limit: int) -> list[Incident]:
        """Return at most `limit` open incidents that have not happened again since `before_ms`."""
        key = self._keys.incidents
        return self._read(
            self._database.call("ZRANGEBYSCORE", key, "-inf", before_ms, "LIMIT", 0, limit)
        )

    def _read(self, ids: Sequence[str]) -> list[Incident]:
        rows = self._database.hashes([self._keys.incident(incident_id) for incident_id in ids])
        return [_incident(i, fields) for i, fields in zip(ids, rows, strict=True) if fields]


def _incident(incident_id: str, row: Mapping[str, str] | RecordBroken) -> Incident:
    """Return a stored incident as a value; unreadable fields get stand-ins and a `fault`."""
    fields = Fields(row)
    never = from_ms(0)
    incident = Incident(
        id=incident_id,
        kind=fields.word(TroubleKind, "sort", fields.word(TroubleKind, "kind")),
        job_id=fields.text("job_id") or "",
        job_name=fields.text("job_name") or "",
        text=fields.required("text"),
        count=fields.number("count") or 0,
        told=fields.number("told") or 0,
        first_at=fields.required_instant("first_ms", stand_in=never),
        last_at=fields.required_instant("last_ms", stand_in=never),
        last_run_id=fields.text("last_run_id") or None,
        acked_at=fields.instant("acked_ms"),
        closed_at=fields.instant("closed_ms"),
    )
    return msgspec.structs.replace(incident, fault=fields.fault) if fields.faults else incident
