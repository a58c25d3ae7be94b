"""Change the number of shards while no beat leads.

There are three steps, and each may be repeated: move entries out of the shards that disappear,
store the new count, then move the rest. The leases of all shards are held meanwhile. A beat that
starts in between stands by, and reads the new count when it leads. If the command is killed, run it
again to finish; until then a job in a wrong shard is moved when it is due.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hermes_celery.errors import StoreError
from hermes_celery.store.database import MOST_SHARDS

if TYPE_CHECKING:
    from hermes_celery.scheduling.lease import Lease
    from hermes_celery.store import Shards


def reshard(shards: Shards, count: int, *, lease_of: Callable[[int], Lease]) -> int:
    """Split the due index into `count` shards; return how many jobs moved.

    Raises StoreError for a number outside 1 to 64, and while a beat leads.
    """
    if not 1 <= count <= MOST_SHARDS:
        raise StoreError(f"{count} shards: the number must be 1 to {MOST_SHARDS}")
    before = shards.count()
    leases = [lease_of(shard) for shard in range(max(before, count))]
    with ExitStack() as stack:
        for lease in leases:
            stack.callback(lease.release)
        _hold(shards, leases)
        moved = sum(_sorted(shards, s, count=count, leases=leases) for s in range(count, before))
        shards.set_count(count)
        moved += sum(_sorted(shards, s, count=count, leases=leases) for s in range(before))
    return moved


def _sorted(shards: Shards, shard: int, *, count: int, leases: Sequence[Lease]) -> int:
    moved = stayed = 0
    while True:
        _hold(shards, leases)
        went, kept = shards.sort(shard, shards=count, start=stayed)
        if not went and not kept:
            return moved
        moved, stayed = moved + went, stayed + kept


def _hold(shards: Shards, leases: Sequence[Lease]) -> None:
    if any(lease.hold() is None for lease in leases):
        raise StoreError(
            f"{', '.join(shards.leaders()) or 'a beat'} leads; stop every beat before the number "
            "of shards is changed, and start them again afterwards; `hermes-celery up --shards N` "
            "does both for the beats of `up`"
        )
