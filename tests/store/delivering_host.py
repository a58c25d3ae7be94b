"""One host that delivers, without processes: real Valkey, real receivers, a hand-set clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hermes_celery.core.job import Job, JobRequest
from hermes_celery.core.run import DeliveryState, Outcome, Run, RunState
from hermes_celery.delivering.address_book import AddressBook
from hermes_celery.delivering.channels import Channels
from hermes_celery.delivering.dead_man_switch import Pinger
from hermes_celery.delivering.deliverer import Deliverer, DeliveryRules, DeliveryStores
from hermes_celery.delivering.outbox import RunAnnouncer, push_due
from hermes_celery.store import Breakers, Database, Deliveries, Incidents
from tests.support import HandClock, Store

TOKEN = 7


class PlainDeliveryMessages:
    """Messages without Celery: only the delivery's id."""

    def __init__(self, queue: str) -> None:
        self._queue = queue

    def delivery_queue(self) -> str:
        return self._queue

    def delivery_message(self, delivery_id: str, *, label: str, push: int = 0) -> bytes:
        return delivery_id.encode()


class DeliveringHost:
    """One host that delivers, with a home of its own."""

    def __init__(self, store: Store, home: Path, **environment: str) -> None:
        self.store = store
        self.home = home
        self.environment = environment
        self.deliveries = Deliveries(store.database)
        self.incidents = Incidents(store.database)
        self.messages = PlainDeliveryMessages(store.database.keys.default_queue + ":deliveries")
        self.pinger = Pinger(timeout_seconds=2)
        self.wrap = False
        #: Parts that tests replace.
        self.book: type[AddressBook] = AddressBook
        self.channels: type[Channels] = Channels
        self.breakers: type[Breakers] = Breakers
        self.limits: dict[str, Any] = {}
        self.pause: Callable[[float], None] = time.sleep
        #: Broken records that rescue reported: job, key, fault.
        self.broken: list[tuple[str, str, str]] = []

    @property
    def targets_toml(self) -> Path:
        return self.home / "targets.toml"

    def deliverer(self) -> Deliverer:
        book = self.book(
            environment=self.environment,
            names_path=self.targets_toml,
            home=self.home,
            files_dir=self.home / "output",
        )
        return Deliverer(
            DeliveryStores(
                deliveries=self.deliveries,
                incidents=self.incidents,
                jobs=self.store.jobs,
                runs=self.store.runs,
                breakers=self.breakers(self.store.database),
            ),
            book=book,
            channels=self.channels(
                environment=self.environment,
                files_dir=self.home / "output",
                timeout_seconds=0.5,
                hermes_command=str(self.home / "hermes"),
            ),
            rules=DeliveryRules(
                wrap=self.wrap,
                first_wait_seconds=10,
                timeout_seconds=0.5,
                jitter=lambda: 1.0,
                **self.limits,
            ),
            clock=self.store.clock,
            pause=self.pause,
        )

    def job(self, deliver: str, **fields: Any) -> Job:
        request = JobRequest(schedule="every 1h", script="s.sh", no_agent=True, name="disks",
                             deliver=deliver, **fields)  # fmt: skip
        return self.store.cron.add(request)

    def end(self, *, output: str = "", error: str | None = None, **fields: Any) -> Run:
        """Run the job `disks` and end the run; return its record."""
        store = self.store
        run_id = store.cron.run("disks")
        state = RunState.FAILED if error else RunState.SUCCEEDED
        outcome = Outcome(state=state, output=output.encode(), error=error, **fields)
        claim = store.claim(run_id)
        announcer = RunAnnouncer(self.messages, pinger=self.pinger)
        announcer.started(claim)
        store.clock.advance(1)
        store.runs.finish(claim, outcome, now_ms=store.clock.ms,
                          follow_up=announcer.follow_up(claim, outcome))  # fmt: skip
        return store.runs.get(run_id)

    def work_off(self) -> list[str]:
        """Deliver every message on the queue, as a worker does; return the answers."""
        answers = []
        while delivery_id := self.store.database.call("RPOP", self.messages.delivery_queue()):
            answers.append(self.deliverer().deliver(delivery_id))
        return answers

    def send_now(self, notice: str) -> None:
        self.deliverer().deliver(notice)

    def rescue(self) -> int:
        return push_due(
            self.deliveries,
            self.messages,
            token=TOKEN,
            now_ms=self.store.clock.ms,
            on_broken=lambda *what: self.broken.append(what),
        )

    def standing(self, run: Run) -> DeliveryState:
        return self.store.runs.get(run.id).delivery


def at(database: Database, clock: HandClock, home: Path) -> DeliveringHost:
    """Return a host with a home, in a namespace of a real server."""
    database.call("SET", database.keys.term, TOKEN)
    return DeliveringHost(Store(database, clock), home, HERMES_HOME=str(home), PATH="/usr/bin:/bin")
