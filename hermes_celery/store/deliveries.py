"""Deliveries: one record for each run or notice, one part for each target.

One script ends a run and begins its delivery (`finish.lua`, `lose.lua`). From then on the
delivery's id is in the index of deliveries, scored by the time when it must be checked next,
until every part is delivered or given up.
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

#: Longer than the run's record lives, so that a late copy of a message still finds it.
KEEP_SECONDS = 40 * 86_400
_FIRST_PUSH_MS = 60_000
_LAST_PUSH_MS = 3_600_000
#: How long a sender may still renew an expired claim before another sender takes its part over.
GRACE_MS = 10_000
#: How often planning a delivery may begin without success before the delivery is given up.
MAX_PLANNINGS = 5


class PartContent(StrEnum):
    """The content of one part."""

    #: The run's output.
    OUTPUT = "output"
    #: One line about the run's failure.
    FAILURE = "failure"
    #: A message that the job works again.
    RECOVERY = "recovery"
    #: The text of a notice.
    NOTICE = "notice"
    #: A ping to a dead-man switch about the run's end.
    PING = "ping"


class DeliveryPart(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one target, as planned."""

    what: PartContent
    target: Target
    #: Why it cannot be sent; such a part fails without an attempt.
    fault: str = ""
    #: Whether an attempt of an earlier plan has delivered it.
    was_delivered: bool = False

    @property
    def state(self) -> DeliveryState:
        """The state of a newly planned part."""
        if self.was_delivered:
            return DeliveryState.DELIVERED
        return DeliveryState.FAILED if self.fault else DeliveryState.PENDING

    @property
    def label(self) -> str:
        """The target's label, with secrets masked, for display and logs."""
        is_ping = self.what is PartContent.PING
        return masked_path(self.target.url) if is_ping else self.target.label

    @property
    def counts(self) -> bool:
        """True if the run counts as delivered only when this part is delivered."""
        return self.what in (PartContent.OUTPUT, PartContent.FAILURE)


class DeliveryPartState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one part."""

    part: DeliveryPart
    state: DeliveryState
    attempts: int = 0
    error: str | None = None
    next_ms: int | None = None


class DeliveryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one delivery."""

    id: str
    #: None while it is not planned yet.
    parts: tuple[DeliveryPartState, ...] | None = None
    #: The parts that somebody asked to deliver again: `failed` or `all`; else "".
    again: str = ""
    recovery: str = ""
    #: For a notice only: its text, its targets and the job that it is about.
    text: str = ""
    deliver: str = ""
    job_id: str = ""


class SendClaim(msgspec.Struct, frozen=True, kw_only=True):
    """The right to send one part once."""

    id: str
    part: int
    token: str
    attempt: int
    #: Number of message pieces that earlier attempts have sent.
    sent: int


class ToldIncident(msgspec.Struct, frozen=True, kw_only=True):
    """The incident that a message reports, and its counter at that time."""

    id: str
    count: int


class Deliveries:
    """Reads and writes the deliveries of one namespace.

    All times are the server's, Unix milliseconds.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys

    def get(self, delivery_id: str) -> DeliveryRecord:
        """Return a delivery's record; an empty one when none is stored.

        Raises RecordBroken when it is unreadable.
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
        """Claim the planning of a delivery until `until_ms`, and count the attempt.

        Returns `ok`, `taken` (another worker plans it), `planned` (it has a plan), or `spent`: it
        was begun five times and never planned, so the caller must end it.
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
        """Record the parts of a delivery, unless it is planned already.

        `text` is the message, unless it is made from the run's output. With `told`, the incident
        counts as reported up to that counter.
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
        """Claim one part until `until_ms`, and return the claim, or a word that says why not.

        A call with the same token renews the claim. After a claim has expired, another sender gets
        the part only ten seconds after asking for it. The words: `taken` (another sender has it),
        `later` (not due), `over`.
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
        """Record the outcome of an attempt; a `pending` part is due again at `next_ms`.

        Returns the state of the whole delivery, or `late` when the claim was lost meanwhile.
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
        """Deliver a run once more: its `failed` parts or `all`. Return False if it has not ended.

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
        """Record a notice, a message without a run, due now.

        Returns False if it was recorded before.
        """
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
        """Remove a delivery from the index, because there is nothing left to deliver."""
        self._database.call("ZREM", self._keys.deliveries, delivery_id)

    def expire(self, delivery_id: str) -> None:
        """Let a delivery's record expire as if the delivery were over."""
        self._database.call("EXPIRE", self._keys.delivery(delivery_id), KEEP_SECONDS)

    def due(self, now_ms: int, *, limit: int) -> list[tuple[str, int]]:
        """Return at most `limit` deliveries that are due for a check, each with its deadline."""
        key = self._keys.deliveries
        answer = self._database.call(
            "ZRANGEBYSCORE", key, "-inf", now_ms, "WITHSCORES", "LIMIT", 0, limit
        )
        found = scored(answer)
        endless = [delivery_id for delivery_id, score in found if score == float("-inf")]
        if endless:
            # Scripts cannot compare -inf; with 0 the next call returns it.
            ends = (part for delivery_id in endless for part in (0, delivery_id))
            self._database.call("ZADD", key, "XX", *ends)
        return [(delivery_id, int(score)) for delivery_id, score in found if score != float("-inf")]

    def job_names(self, delivery_ids: Sequence[str]) -> dict[str, str]:
        """Return the readable job names of the runs of these deliveries, by delivery id."""
        answers = self._database.call_each(
            [("HGET", self._keys.run(delivery_id), "job_name") for delivery_id in delivery_ids]
        )
        found = zip(delivery_ids, answers, strict=True)
        return {delivery_id: name for delivery_id, name in found if isinstance(name, str) and name}

    def push(
        self, delivery_id: str, *, seen_ms: int, now_ms: int, token: int, queue: str, message: bytes
    ) -> bool:
        """Push the message of a due delivery; return False if its deadline has changed meanwhile.

        Raises LeaseLost when a younger leader is known, and RecordBroken. If the delivery's own
        record is the broken one, the delivery is due again in an hour.
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
        """Make a delivery due again in an hour, so that it does not block others that are due."""
        self._database.call(
            "ZADD", self._keys.deliveries, "XX", now_ms + _LAST_PUSH_MS, delivery_id
        )

    def _index_keys(self, delivery_id: str) -> dict[str, str]:
        """Return the keys of a delivery's record and of the index of deliveries."""
        return {
            "delivery": self._keys.delivery(delivery_id),
            "deliveries": self._keys.deliveries,
        }

    def _record_keys(self, delivery_id: str) -> dict[str, str]:
        """Return the same keys, and those of the run and job that show the delivery's state."""
        job_id = job_id_of(delivery_id) if is_run_id(delivery_id) else ""
        told_in = {"run": self._keys.run(delivery_id), "job": self._keys.job(job_id)}
        return {**self._index_keys(delivery_id), **told_in}


def _planned(key: str, text: str) -> tuple[DeliveryPart, ...]:
    try:
        return msgspec.json.decode(text, type=tuple[DeliveryPart, ...])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise RecordBroken(key, f"has unreadable parts ({error})") from None


def _part_state(part: DeliveryPart, number: int, fields: Fields) -> DeliveryPartState:
    return DeliveryPartState(
        part=part,
        state=fields.word(DeliveryState, f"{number}:state", DeliveryState.PENDING),
        attempts=fields.number(f"{number}:attempts") or 0,
        error=fields.text(f"{number}:error") or None,
        next_ms=fields.number(f"{number}:next") or None,
    )
