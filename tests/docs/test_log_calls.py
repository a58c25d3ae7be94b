"""The events that the code logs are those of the table, and no name of one can hide."""

from __future__ import annotations

import pytest

from docs.generate.log_calls import calls_in, log_calls
from hermes_celery.events import EVENTS

SOURCE = """
LEVELS = {1: ("run.one", logging.INFO), 2: ("run.two", logging.DEBUG)}
def plain():
    event(log, "run.plain", run=1, exc_info=error, why=2)
def chosen():
    level = logging.ERROR if bad else logging.WARNING
    event(log, "run.good" if good else "run.bad", level=level)
def listed():
    name, level = LEVELS[answer]
    event(log, name, level=level)
def looped():
    for word in ("added", "removed"):
        event(log, f"job.{word}")
def told(claim, name):
    event(log, name)
told(claim, "run.told")
"""


def test_the_table_has_each_event_that_is_logged_and_no_other() -> None:
    logged = {call.name for call in log_calls()}
    assert logged - EVENTS.keys() == set(), "write a sentence in hermes_celery.events.EVENTS"
    assert EVENTS.keys() - logged == set(), "nothing logs this any more"
    assert list(EVENTS) == sorted(EVENTS)


def test_names_levels_and_fields_are_read_from_the_source() -> None:
    found = {call.name: call for call in calls_in(SOURCE, module="shop")}
    assert {name: call.levels for name, call in found.items()} == {
        "run.plain": ("INFO",),
        "run.good": ("ERROR",),
        "run.bad": ("WARNING",),
        "run.one": ("INFO",),
        "run.two": ("DEBUG",),
        "job.added": ("INFO",),
        "job.removed": ("INFO",),
        "run.told": ("INFO",),
    }
    assert found["run.plain"].fields == ("run", "why")


@pytest.mark.parametrize("name", ["state.value", "made()", "unknown"])
def test_a_name_that_cannot_be_read_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="shop, line 2: cannot read the values of"):
        list(calls_in(f"def f():\n    event(log, {name})\n", module="shop"))
