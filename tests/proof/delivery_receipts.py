"""Deliveries in the proof: a target that writes down what reached it, and the judgement.

Each message that reached a target is a file, named after the target, with the message in it. The
work of a job that delivers prints its run's id, so each file names its run.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from hermes_celery.celery_app.messages import MessageBuilder
from hermes_celery.clock import Clock
from hermes_celery.core.run import DeliveryState, Run, RunState
from hermes_celery.core.targets import Target
from hermes_celery.delivering.address_book import AddressBook
from hermes_celery.delivering.channels import Channel, Channels
from hermes_celery.delivering.dead_man_switch import Pinger
from hermes_celery.delivering.deliverer import Deliverer, DeliveryRules, DeliveryStores
from hermes_celery.delivering.outbox import RunAnnouncer, push_due
from hermes_celery.errors import DeliveryFault
from hermes_celery.store import Database, Deliveries

#: The host of a target that rejects its first message.
BUSY = "busy"
#: A run id in a text.
RUN_ID = re.compile(r"[0-9a-f]{12}-\d{8}T[\d.]+Z(?:-[0-9a-f]+)?")


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One message that reached a target."""

    target: str
    run_id: str


def receipts_in(directory: Path) -> list[Receipt]:
    """Return every message that reached a target and names a run."""
    found = []
    for path in sorted(directory.glob("*.message")):
        run_id = RUN_ID.search(path.read_text(encoding="utf-8"))
        if run_id:
            found.append(Receipt(target=path.name.split(".")[0], run_id=run_id[0]))
    return found


class NotedChannel:
    """A channel to a target that writes down what it receives."""

    seconds = 1.0

    def __init__(self, target: str, directory: Path) -> None:
        self._target = target
        self._directory = directory

    def pieces(self, text: str) -> list[str]:
        """Return the text in one piece."""
        return [text]

    def send(self, piece: str, *, title: str, files: tuple[Path, ...]) -> None:
        """Write the message down; a busy target rejects the first one."""
        turned_away = self._directory / f"{self._target}.turned-away"
        if self._target == BUSY and not turned_away.exists():
            turned_away.touch()
            raise DeliveryFault("busy, try again later")
        path = self._directory / f"{self._target}.{secrets.token_hex(6)}.message"
        path.write_text(piece, encoding="utf-8")


class NotedChannels(Channels):
    """Maps every target to a file in one directory, by its host."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def way_to(self, target: Target) -> Channel:
        """Return the channel of a target."""
        return NotedChannel(target.url.partition("://")[2].partition("/")[0], self._directory)


def far_end(starts: Path) -> Path:
    """Return the directory for delivered messages, beside the scene's starts."""
    directory = starts.with_name(f"{starts.name}-reached")
    directory.mkdir(exist_ok=True)
    return directory


def make_announcer(messages: MessageBuilder) -> RunAnnouncer:
    """Return the listener that begins a delivery when a run ends."""
    return RunAnnouncer(messages, pinger=Pinger(timeout_seconds=1))


def make_deliverer(database: Database, clock: Clock, directory: Path) -> Deliverer:
    """Return a deliverer that writes to a directory."""
    return Deliverer(
        DeliveryStores.of(database),
        book=AddressBook(
            environment={}, names_path=directory / "none", home=directory, files_dir=directory
        ),
        channels=NotedChannels(directory),
        rules=DeliveryRules(wrap=False, first_wait_seconds=5.0, timeout_seconds=1.0),
        clock=clock,
    )


def push_deliveries(
    database: Database, messages: MessageBuilder, *, token: int, now_ms: int
) -> None:
    """Push the due deliveries, as a leader does in its rescue."""
    push_due(Deliveries(database), messages, token=token, now_ms=now_ms)


def delivery_faults(
    runs: Iterable[Run],
    receipts: Iterable[Receipt],
    *,
    targets: Mapping[str, tuple[str, ...]],
    most: int,
) -> Iterator[str]:
    """Yield the faults in the deliveries of runs that succeeded.

    `targets` names the targets of each job by its id. Each must be reached at least once and at
    most `most` times, and the run's record must say that it was delivered.
    """
    reached = Counter((receipt.target, receipt.run_id) for receipt in receipts)
    for run in runs:
        wanted = targets.get(run.job_id, ())
        if not wanted or run.state is not RunState.SUCCEEDED:
            continue
        if run.delivery is not DeliveryState.DELIVERED:
            yield f"the delivery of {run.id} is {run.delivery.value} for ever"
        for target in wanted:
            times = reached[target, run.id]
            if not 1 <= times <= most:
                yield f"{run.id} reached {target} {times} times; 1 to {most} are right"
