"""Errands: in order, again while Redis is away, and one that fails holds up no other."""

from __future__ import annotations

from hermes_celery.errands import Errands
from hermes_celery.errors import RecordBroken, StoreUnavailable


def test_errands_are_done_in_order_and_each_by_itself() -> None:
    done: list[str] = []
    errands = Errands()

    def broken() -> None:
        raise RecordBroken("key", "is a list")

    def unforeseen() -> None:
        raise RuntimeError("unforeseen")

    for errand in (lambda: done.append("first"), broken, unforeseen, lambda: done.append("last")):
        errands.later("one", errand)
    assert errands.drain(10)
    assert done == ["first", "last"]


def test_an_errand_is_done_again_until_redis_answers() -> None:
    answers = iter([StoreUnavailable("away"), StoreUnavailable("away"), None])
    pauses: list[float] = []

    def ask() -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    errands = Errands(pause=pauses.append)
    errands.later("one", ask)
    assert errands.drain(10)
    assert pauses == [1.0, 1.0]
    assert next(answers, "all") == "all"
