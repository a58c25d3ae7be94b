"""A namespace with jobs and runs in every state, to be put into disorder and repaired."""

from __future__ import annotations

from typing import Any

from hermes_celery.core.job import Job, JobRequest
from hermes_celery.core.policy import OnLost, Overlap, Policy
from hermes_celery.core.reconciling import Disagreement
from hermes_celery.core.run import DeliveryState, Outcome, RunState, run_id_of
from hermes_celery.core.server_address import BrokerNames
from hermes_celery.scheduling.sweep import RecordExaminer
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.store import (
    CheckMode,
    Database,
    FollowUp,
    Records,
    Repairs,
    SharedKeys,
)
from tests.support import HandClock, Store

TOKEN = 7


class World:
    """Jobs that wait, run, hold a run back, are paused or completed; all consistent."""

    def __init__(self, database: Database, clock: HandClock) -> None:
        self.database = database
        self.keys = database.keys
        self.clock = clock
        self.store = Store(database, clock)
        self.examiner = RecordExaminer(
            repairs=Repairs(database),
            shared=SharedKeys(database, BrokerNames()),
            records=Records(database),
        )
        database.call("SET", self.keys.term, TOKEN)
        database.call("HSET", self.keys.leader, "term", TOKEN, "owner", "beat")
        cron = self.store.cron
        self.idle = self._add("idle", "every 1h")
        self.waiting = self._add("waiting", "every 1h")
        self.running = self._add("running", "every 1h")
        self.holding = self._add("holding", "every 1h", policy=Policy(overlap=Overlap.QUEUE_ONE))
        self.retrying = self._add("retrying", "every 1h", policy=Policy(on_lost=OnLost.RETRY))
        self.once = self._add("once", "in 1h")
        self.paused = self._add("paused", "every 1h")
        self.over = self._add("over", "in 1h")
        self.delivered = self._add("delivered", "every 1h")
        cron.pause("paused")
        # After an hour all are due except the idle one, which was added half an hour later.
        clock.advance(1800)
        cron.remove("idle")
        self.idle = self._add("idle", "every 1h")
        clock.advance(1800)
        self.tick()
        self.run_of = {job.name: run_id_of(job.id, clock.ms) for job in self.store.jobs.all()}
        store = self.store
        for name in ("running", "over", "delivered", "holding", "once"):
            store.claim(self.run_of[name], token=name)
        for name, delivery in (("over", DeliveryState.NONE), ("delivered", DeliveryState.PENDING)):
            claim = store.runs.claim(
                self.run_of[name], token=name, now_ms=clock.ms, worker="w@host"
            )
            assert not isinstance(claim, str)
            store.runs.finish(
                claim,
                Outcome(state=RunState.SUCCEEDED, output=b"x"),
                now_ms=clock.ms,
                follow_up=FollowUp(
                    delivery=delivery, queue=self.keys.delivery_queue, message=b"m", is_needed=True
                ),
            )
        claim = store.claim(self.run_of["retrying"], token="retrying")
        store.runs.finish(
            claim, Outcome(state=RunState.FAILED), now_ms=clock.ms, retry_at_ms=clock.ms + 60_000
        )
        clock.advance(3600)
        store.runs.heartbeat(
            {self.run_of[name]: name for name in ("running", "holding", "once")}, now_ms=clock.ms
        )
        self.tick()
        self.held = run_id_of(self.holding.id, clock.ms)

    def _add(self, name: str, schedule: str, **fields: Any) -> Job:
        return self.store.cron.add(JobRequest(schedule=schedule, prompt="p", name=name, **fields))

    def tick(self) -> None:
        store = self.store
        Ticker(store.due, store.messages).tick(token=TOKEN, now_ms=self.clock.ms)

    def mode(self, **changes: Any) -> CheckMode:
        return CheckMode(now_ms=self.clock.ms, **{"is_deep": True, **changes})

    def look(self, *, mends: bool = True, **changes: Any) -> list[Disagreement]:
        """Examine every key and record once, and return the disagreements."""
        mode = self.mode(mends=mends, **changes)
        found = self.examiner.keys(mode)
        for page in self.examiner.records.everything(shards=self.examiner.repairs.shards):
            found += self.examiner.page(page, mode)
        return list(dict.fromkeys(found))

    def call(self, *command: Any) -> Any:
        return self.database.call(*command)

    def dump(self) -> dict[str, Any]:
        """Return every key of the namespace with its value, without what repairs set aside."""
        return {
            key: self.call("DUMP", key) and self._value(key)
            for key in sorted(self.call("KEYS", f"*{self.keys.namespace}*"))
            if ":quarantine:" not in key
        }

    def without_notes(self, dump: dict[str, Any]) -> dict[str, Any]:
        """Remove from a dump what repairs have noted for the leader to report."""
        rest = dict(dump)
        notes = rest.pop(self.keys.sweep, {})
        kept = {name: value for name, value in notes.items() if not name.startswith("untold:")}
        return rest | ({self.keys.sweep: kept} if kept else {})

    def quarantined(self) -> list[str]:
        return [
            key.split(":", 3)[-1] for key in self.call("KEYS", f"{self.keys.prefix}quarantine:*")
        ]

    def _value(self, key: str) -> Any:
        kind = self.call("TYPE", key)
        if kind == "hash":
            return dict(self.call("HGETALL", key))
        if kind == "set":
            return set(self.call("SMEMBERS", key))
        reads = {
            "string": ("GET",),
            "list": ("LRANGE", 0, -1),
            "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
        }
        command, *rest = reads[kind]
        return self.call(command, key, *rest)
