"""What is on its way to people: one record for each run or notice, one part for each target.

A run's end and the beginning of its delivery are one step (`finish.lua`, `lose.lua`). From then on
its id stands in the index of deliveries, by when somebody has to look at it, until every part is
delivered or given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from hermes_celery.core.run import DeliveryState, is_run_id, job_id_of
from hermes_celery.core.targets import Target
from hermes_celery.errors import RecordBroken, RunNotFound
from hermes_celery.masking.urls import masked_path
from hermes_celery.store.database import Arg, Database, scored
from hermes_celery.store.record_fields import Fields

#: The record outlives the run's, so that a late copy of a message finds it.
KEEP_SECONDS = 40 * 86_400
_FIRST_PUSH_MS = 60_000
_LAST_PUSH_MS = 3_600_000
#: What a sender whose claim has run out is given to speak up, before somebody takes its part over.
GRACE_MS = 10_000
#: A delivery that was begun so often and never planned is given up.
MAX_PLANNINGS = 5


class PartContent(StrEnum):
    """What a part tells."""

    #: What the run printed.
    OUTPUT = "output"
    #: That the run failed, in one line.
    FAILURE = "failure"
    #: That the job works again.
    RECOVERY = "recovery"
    #: The text of a notice.
    NOTICE = "notice"
    #: How the run ended, for a dead-man switch.
    PING = "ping"


class DeliveryPart(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one target, as planned."""

    what: PartContent
    target: Target
    #: Why it cannot be sent; such a part is given up before its first attempt.
    fault: str = ""
    #: An earlier plan's attempt reached it.
    was_delivered: bool = False

    @property
    def state(self) -> DeliveryState:
        """Where it stands when it is planned."""
        if self.was_delivered:
            return DeliveryState.DELIVERED
        return DeliveryState.FAILED if self.fault else DeliveryState.PENDING

    @property
    def label(self) -> str:
        """The target as it may be shown and logged."""
        is_ping = self.what is PartContent.PING
        return masked_path(self.target.url) if is_ping else self.target.label

    @property
    def counts(self) -> bool:
        """Whether the run is delivered only when this part is."""
        return self.what in (PartContent.OUTPUT, PartContent.FAILURE)


class DeliveryPartState(msgspec.Struct, frozen=True, kw_only=True):
    """Where one part stands."""

    part: DeliveryPart
    state: DeliveryState
    attempts: int = 0
    error: str | None = None
    next_ms: int | None = None


class DeliveryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery."""

    id: str
    #: None: not planned yet.
    parts: tuple[DeliveryPartState, ...] | None = None
    #: "" or, when somebody asked to deliver again, `failed` or `all`.
    again: str = ""
    recovery: str = ""
    #: Of a notice: what it says, where it goes and which job it is about.
    text: str = ""
    deliver: str = ""
    job_id: str = ""


class SendClaim(msgspec.Struct, frozen=True, kw_only=True):
    """The right to send one part once."""

    id: str
    part: int
    token: str
    attempt: int
    #: Pieces of the message that earlier attempts have sent.
    sent: int


class ToldIncident(msgspec.Struct, frozen=True, kw_only=True):
    """The incident that a message tells of, and which time of it."""

    id: str
    count: int


class Deliveries:
    """The deliveries of one namespace. All times are the server's, Unix milliseconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def get(self, delivery_id: str) -> DeliveryRecord:
        """What is known of a delivery; an empty record when that is nothing.

        Raises RecordBroken when it cannot be read.
        """
        key = self._keys.delivery(delivery_id)
        row = self._database.hash(key)
        fields, parts = Fields(row), None
        if "parts" in row:
            planned = _planned(key, row["parts"])
            parts = tuple(_part_state(part, i, fields) for i, part in enumerate(planned))
        if fields.fault:
            raise RecordBroken(key, fields.fault)
        return DeliveryRecord(
            id=delivery_id,
            parts=parts,
            again=fields.text("again") or "",
            recovery=fields.text("recovery") or "",
            text=fields.text("text") or "",
            deliver=fields.text("deliver") or "",
            job_id=fields.text("job_id") or "",
        )

    def begin(self, delivery_id: str, *, token: str, now_ms: int, until_ms: int) -> str:
        """Take the right to plan a delivery until `until_ms`, and count it, or say why not.

        The words: `ok`, `taken` (somebody plans it), `planned`, and `spent`: it was begun five
        times and never planned, so whoever asks is to end it.
        """
        return str(
            self._database.run(
                "deliver_begin",
                keys=self._index_keys(delivery_id),
                args={
                    "id": delivery_id,
                    "token": token,
                    "now_ms": now_ms,
                    "until_ms": until_ms,
                    "most": MAX_PLANNINGS,
                },
            )
        )

    def plan(
        self,
        delivery_id: str,
        parts: Sequence[DeliveryPart],
        *,
        now_ms: int,
        text: str = "",
        warning: str = "",
        told: ToldIncident | None = None,
    ) -> None:
        """Record where a message goes, unless that is recorded already.

        `text` is what it says where that does not follow from the run's output. With it that time
        of an incident counts as `told`.
        """
        listed: list[Arg] = []
        for part in parts:
            listed += (int(part.counts), part.state.value, part.fault)
        incident = self._keys.incident("" if told is None else told.id)
        self._database.run(
            "deliver_plan",
            keys={**self._record_keys(delivery_id), "incident": incident},
            args={
                "id": delivery_id,
                "now_ms": now_ms,
                "keep_seconds": KEEP_SECONDS,
                "parts": msgspec.json.encode(parts),
                "warning": warning,
                "count": "" if told is None else told.count,
                "text": text,
            },
            more_args=listed,
        )

    def claim(
        self, delivery_id: str, part: int, *, token: str, now_ms: int, until_ms: int
    ) -> SendClaim | str:
        """Take the right to send one part until `until_ms`, or say why not.

        The same token asks again to keep its claim for longer. A claim that has run out is dead
        only ten seconds after somebody else has asked for it. The words: `taken` (somebody sends
        it), `later` (not due), `over`.
        """
        answer = self._database.run(
            "deliver_claim",
            keys=self._index_keys(delivery_id),
            args={
                "id": delivery_id,
                "part": part,
                "token": token,
                "now_ms": now_ms,
                "until_ms": until_ms,
                "grace_ms": GRACE_MS,
            },
        )
        if answer[0] != "ok":
            return str(answer[0])
        return SendClaim(
            id=delivery_id, part=part, token=token, attempt=int(answer[1]), sent=int(answer[2])
        )

    def done(
        self,
        claim: SendClaim,
        state: DeliveryState,
        *,
        now_ms: int,
        error: str = "",
        next_ms: int = 0,
        sent: int = 0,
    ) -> str:
        """Record how an attempt went; `pending` is tried again at `next_ms`.

        Returns where the delivery stands as a whole, or `late`: the claim was no longer ours.
        """
        word, standing = self._database.run(
            "deliver_done",
            keys=self._record_keys(claim.id),
            args={
                "id": claim.id,
                "now_ms": now_ms,
                "keep_seconds": KEEP_SECONDS,
                "part": claim.part,
                "token": claim.token,
                "state": state.value,
                "error": error,
                "next_ms": next_ms,
                "sent": sent,
            },
        )
        return str(standing if word == "ok" else word)

    def again(self, run_id: str, *, mode: str, now_ms: int, queue: str, message: bytes) -> bool:
        """Deliver a run once more, `failed` parts or `all`; False when it has not ended.

        Raises RunNotFound.
        """
        keys = self._keys
        answer = self._database.run(
            "deliver_again",
            keys={"run": keys.run(run_id), **self._index_keys(run_id), "queue": queue},
            args={
                "run_id": run_id,
                "mode": mode,
                "push_at_ms": now_ms + _FIRST_PUSH_MS,
                "message": message,
            },
        )
        if answer == "gone":
            raise RunNotFound(run_id)
        return bool(answer == "ok")

    def notice(
        self,
        notice_id: str,
        text: str,
        *,
        deliver: str,
        job_id: str,
        told: ToldIncident,
        now_ms: int,
    ) -> bool:
        """Record a message of no run, due now; False when it was recorded before."""
        answer = self._database.run(
            "deliver_notice",
            keys={**self._index_keys(notice_id), "incident": self._keys.incident(told.id)},
            args={
                "id": notice_id,
                "now_ms": now_ms,
                "text": text,
                "deliver": deliver,
                "job_id": job_id,
                "count": told.count,
            },
        )
        return bool(answer == "ok")

    def forget(self, delivery_id: str) -> None:
        """Look at a delivery no more: there is nothing left to deliver."""
        self._database.call("ZREM", self._keys.deliveries, delivery_id)

    def expire(self, delivery_id: str) -> None:
        """Keep the record of a delivery no longer than that of one that is over."""
        self._database.call("EXPIRE", self._keys.delivery(delivery_id), KEEP_SECONDS)

    def due(self, now_ms: int, *, limit: int) -> list[tuple[str, int]]:
        """Deliveries that somebody has to look at, each with the deadline that passed."""
        key = self._keys.deliveries
        answer = self._database.call(
            "ZRANGEBYSCORE", key, "-inf", now_ms, "WITHSCORES", "LIMIT", 0, limit
        )
        found = scored(answer)
        endless = [delivery_id for delivery_id, score in found if score == float("-inf")]
        if endless:
            # No deadline that a script could compare; from the next look on it has one.
            ends = (part for delivery_id in endless for part in (0, delivery_id))
            self._database.call("ZADD", key, "XX", *ends)
        return [(delivery_id, int(score)) for delivery_id, score in found if score != float("-inf")]

    def job_names(self, delivery_ids: Sequence[str]) -> dict[str, str]:
        """The names of the jobs whose runs these deliveries are of, where they can be read."""
        answers = self._database.call_each(
            [("HGET", self._keys.run(delivery_id), "job_name") for delivery_id in delivery_ids]
        )
        found = zip(delivery_ids, answers, strict=True)
        return {delivery_id: name for delivery_id, name in found if isinstance(name, str) and name}

    def push(
        self, delivery_id: str, *, seen_ms: int, now_ms: int, token: int, queue: str, message: bytes
    ) -> bool:
        """Push the message of a delivery that is due; False when it was looked after meanwhile.

        Raises LeaseLost when a younger leader is known, and RecordBroken: where it is the
        delivery's own record that is broken, it is due again in an hour.
        """
        keys = self._keys
        record = keys.delivery(delivery_id)
        try:
            answer = self._database.run_fenced(
                "deliver_push",
                keys={**self._index_keys(delivery_id), "term": keys.term, "queue": queue},
                args={
                    "token": token,
                    "id": delivery_id,
                    "seen_ms": seen_ms,
                    "now_ms": now_ms,
                    "first_wait_ms": _FIRST_PUSH_MS,
                    "longest_wait_ms": _LAST_PUSH_MS,
                    "message": message,
                },
            )
        except RecordBroken as error:
            if error.key == record:
                self.put_off(delivery_id, now_ms=now_ms)
            raise
        return answer == "ok"

    def put_off(self, delivery_id: str, *, now_ms: int) -> None:
        """Look at a delivery again in an hour: it must not stand before those that are due then."""
        self._database.call(
            "ZADD", self._keys.deliveries, "XX", now_ms + _LAST_PUSH_MS, delivery_id
        )

    def _index_keys(self, delivery_id: str) -> dict[str, str]:
        """The record of a delivery, and the index of those that somebody has to look at."""
        return {
            "delivery": self._keys.delivery(delivery_id),
            "deliveries": self._keys.deliveries,
        }

    def _record_keys(self, delivery_id: str) -> dict[str, str]:
        """The same, with the records that it is told in."""
        job_id = job_id_of(delivery_id) if is_run_id(delivery_id) else ""
        told_in = {"run": self._keys.run(delivery_id), "job": self._keys.job(job_id)}
        return {**self._index_keys(delivery_id), **told_in}


def _planned(key: str, text: str) -> tuple[DeliveryPart, ...]:
    try:
        return msgspec.json.decode(text, type=tuple[DeliveryPart, ...])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise RecordBroken(key, f"has parts that cannot be read ({error})") from None


def _part_state(part: DeliveryPart, number: int, fields: Fields) -> DeliveryPartState:
    return DeliveryPartState(
        part=part,
        state=fields.word(DeliveryState, f"{number}:state", DeliveryState.PENDING),
        attempts=fields.number(f"{number}:attempts") or 0,
        error=fields.text(f"{number}:error") or None,
        next_ms=fields.number(f"{number}:next") or None,
    )
