"""What must be refused is refused by `add`, with the name of the field, and leaves no trace."""

from __future__ import annotations

import json

import pytest

from hermes_celery.core.job import JobRequest
from hermes_celery.errors import ScheduleError
from tests.support import DATA, Store

_FIELDS = ("minute", "hour", "day", "month", "weekday")
#: A row that contradicts another source's rows: the last Monday of the month, as `friL`.
_TAKEN = "* * * * MONL"


def _rows() -> list[str]:
    lines = (DATA / "cases" / "cron_reject.jsonl").read_text(encoding="utf-8").splitlines()
    return [expr for expr in (json.loads(line)["expr"] for line in lines) if expr != _TAKEN]


@pytest.mark.parametrize("expr", _rows(), ids=repr)
def test_add_refuses_it_and_names_field_and_fault(store: Store, expr: str) -> None:
    with pytest.raises(ScheduleError) as error:
        store.cron.add(JobRequest(schedule=expr, prompt="x"))
    text = str(error.value)
    if len(expr.split()) == len(_FIELDS):
        assert repr(expr.strip()) in text or repr(expr) in text
        assert any(field in text for field in _FIELDS), text
    assert store.database.call("KEYS", f"{store.database.keys.prefix}*") == []
