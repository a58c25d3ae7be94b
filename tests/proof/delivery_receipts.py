"""Deliveries in the proof: a far end that writes down what reached it, and the judgement.

A message that reached the far end is a file there, named after its target, with the message in it;
the work of a job that delivers prints its run's id, so each file says which run it tells of.
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

#: The host of a target whose first message is turned away.
BUSY = "busy"
#: A run, named in a text.
RUN_ID = re.compile(r"[0-9a-f]{12}-\d{8}T[\d.]+Z(?:-[0-9a-f]+)?")


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One message that reached a target."""

    target: str
    run_id: str


def receipts_in(directory: Path) -> list[Receipt]:
    """Every message that reached a target and tells of a run."""
    found = []
    for path in sorted(directory.glob("*.message")):
        run_id = RUN_ID.search(path.read_text(encoding="utf-8"))
        if run_id:
            found.append(Receipt(target=path.name.split(".")[0], run_id=run_id[0]))
    return found


class NotedChannel:
    """A way to a far end that writes down what it gets."""

    seconds = 1.0

    def __init__(self, target: str, directory: Path) -> None:
        self._target = target
        self._directory = directory

    def pieces(self, text: str) -> list[str]:
        """The text, whole."""
        return [text]

    def send(self, piece: str, *, title: str, files: tuple[Path, ...]) -> None:
        """Write it down; a busy target turns the first one away."""
        turned_away = self._directory / f"{self._target}.turned-away"
        if self._target == BUSY and not turned_away.exists():
            turned_away.touch()
            raise DeliveryFault("busy, try again later")
        path = self._directory / f"{self._target}.{secrets.token_hex(6)}.message"
        path.write_text(piece, encoding="utf-8")


class NotedChannels(Channels):
    """Leads every target to a far end in one directory, by its host."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def way_to(self, target: Target) -> Channel:
        """The channel of a target."""
        return NotedChannel(target.url.partition("://")[2].partition("/")[0], self._directory)


def far_end(starts: Path) -> Path:
    """Where messages of a scene end up: beside its starts."""
    directory = starts.with_name(f"{starts.name}-reached")
    directory.mkdir(exist_ok=True)
    return directory


def make_announcer(messages: MessageBuilder) -> RunAnnouncer:
    """What begins the delivery with a run's end."""
    return RunAnnouncer(messages, pinger=Pinger(timeout_seconds=1))


def make_deliverer(database: Database, clock: Clock, directory: Path) -> Deliverer:
    """What delivers, to far ends in a directory."""
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
    """What a leader does for deliveries in its rescue."""
    push_due(Deliveries(database), messages, token=token, now_ms=now_ms)


def delivery_faults(
    runs: Iterable[Run],
    receipts: Iterable[Receipt],
    *,
    targets: Mapping[str, tuple[str, ...]],
    most: int,
) -> Iterator[str]:
    """What is wrong with the deliveries of runs that succeeded.

    `targets` names those of each job by its id. Each is reached at least once and at most `most`
    times; and the record says so.
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
