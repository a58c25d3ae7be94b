"""Sorted sets read page by page, while others add and remove.

Where a page ends is remembered as a place, score and member, not as a rank: whatever is added or
removed meanwhile, nothing that stands still is passed over or read twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from hermes_celery.store.database import Database

#: Members of a page: some hundred microseconds of the server's time.
PAGE = 200


class Order(StrEnum):
    """Which way to read."""

    #: The lowest score first.
    UP = "up"
    DOWN = "down"


class PagePosition(msgspec.Struct, frozen=True, kw_only=True):
    """Where something stands in a sorted set, or stood."""

    score: str
    member: str


def position_of(database: Database, index: str, member: str) -> PagePosition | None:
    """Where a member stands; None if it is not there."""
    score = database.call("ZSCORE", index, member)
    return None if score is None else PagePosition(score=f"{float(score):.17g}", member=member)


def pages(
    database: Database, index: str, *, order: Order, after: PagePosition | None = None
) -> Iterator[list[str]]:
    """The members behind a place, or all of them. Raises RecordBroken where the key is no set."""
    while True:
        score, member = ("", "") if after is None else (after.score, after.member)
        answer = database.run(
            "page",
            keys={"index": index},
            args={"score": score, "member": member, "limit": PAGE, "order": order.value},
        )
        if not answer:
            return
        yield list(answer[::2])
        after = PagePosition(score=answer[-1], member=answer[-2])


def lex_pages(
    database: Database, index: str, *, low: bytes, high: bytes, order: Order
) -> Iterator[list[str]]:
    """The members between two bounds, each "[" (with it) or "(" (without it) and a text.

    For a sorted set whose scores are all the same.
    """
    while True:
        if order is Order.UP:
            ends: tuple[str | bytes, ...] = ("ZRANGEBYLEX", index, low, high)
        else:
            ends = ("ZREVRANGEBYLEX", index, high, low)
        page = database.call(*ends, "LIMIT", 0, PAGE)
        if not page:
            return
        yield list(page)
        edge = b"(" + str(page[-1]).encode("utf-8", "surrogateescape")
        low, high = (edge, high) if order is Order.UP else (low, edge)
