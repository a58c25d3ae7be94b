"""Read sorted sets page by page while other clients add and remove members.

The end of a page is remembered as a position (score and member), not as a rank. So members that are
neither added nor removed meanwhile are read exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from hermes_celery.store.database import Database

#: Members per page: some hundred microseconds of the server's time.
PAGE = 200


class Order(StrEnum):
    """The reading direction."""

    #: The lowest score first.
    UP = "up"
    DOWN = "down"


class PagePosition(msgspec.Struct, frozen=True, kw_only=True):
    """A position in a sorted set, even if its member has been removed."""

    score: str
    member: str


def position_of(database: Database, index: str, member: str) -> PagePosition | None:
    """Return the position of a member; None if it is not in the set."""
    score = database.call("ZSCORE", index, member)
    return None if score is None else PagePosition(score=f"{float(score):.17g}", member=member)


def pages(
    database: Database, index: str, *, order: Order, after: PagePosition | None = None
) -> Iterator[list[str]]:
    """Yield pages of members behind a position, or of all members.

    Raises RecordBroken when the key has another type.
    """
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
    """Yield pages of members between two bounds, for a sorted set with equal scores.

    A bound is a text after "[" (included) or "(" (excluded).
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
