"""Version 0.1.0 reads jobs that this version writes: it sends the same message or refuses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hermes_celery.core.task_call import checked_task
from hermes_celery.core.work import TaskCall
from hermes_celery.interop.beat_schedule import text_of
from tests import version_0_1_0
from tests.support import a_spec

_PROGRAM = """
import base64, json, sys
import msgspec
from celery import Celery
from kombu.utils.json import loads
from hermes_celery import job, schedule
from hermes_celery.dispatch import Dispatch

assert not hasattr(job.JobRequest, "needs"), job.__file__
given = json.load(sys.stdin)
app = Celery("shop", broker="redis://nowhere", set_as_current=False)
found = []
for text in given["specs"]:
    spec = msgspec.json.decode(text, type=job.JobSpec)
    message = Dispatch(app).message(spec, run_id="aaaaaaaaaaaa-20260622T120000Z", due_ms=1)
    args, kwargs, _ = loads(base64.b64decode(json.loads(message)["body"]))
    found.append([repr(args), repr(kwargs), job.__file__])
for text in given["schedules"]:
    try:
        schedule.parse(text)
        found.append("taken")
    except schedule.ScheduleError as error:
        found.append(str(error))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Return what 0.1.0 makes of a few jobs and schedules."""
    place = version_0_1_0.unpack(tmp_path_factory.mktemp("old"))
    call = TaskCall(
        name="shop.report",
        args=[datetime(2024, 1, 2, tzinfo=UTC), (1, date(2024, 1, 2))],
        kwargs={"price": Decimal("1.10"), "data": b"x", "by": {1: 2}},
    )
    spec = a_spec(prompt=None, task=checked_task(call), queue="{celery}", priority=10)
    given = {
        "specs": [msgspec.json.encode(spec).decode()],
        "schedules": [
            "0 22 1-7 * +sat",
            text_of(0.5),
            "0 0-3,22,23 * * *",
            "0 9 * * * delayed 10s",
        ],
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "PYTHONPATH": str(place)},
        cwd=place, input=json.dumps(given), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    assert str(Path(place)) in found[0][2]
    return found


def test_version_0_1_0_sends_the_same_arguments(results: list[Any]) -> None:
    assert results[0][0] == (
        "[datetime.datetime(2024, 1, 2, 0, 0, tzinfo=datetime.timezone.utc), "
        "[1, datetime.date(2024, 1, 2)]]"
    )
    assert results[0][1] == "{'price': Decimal('1.10'), 'data': b'x', 'by': {'1': 2}}"


def test_version_0_1_0_refuses_schedules_that_it_would_misread(results: list[Any]) -> None:
    assert "'+sat' is not a value" in results[1]
    assert "0.5s" in results[2]
    assert results[2] != "taken"
    assert results[3] == "taken"
    assert "9 * * * delayed 10s" in results[4]
