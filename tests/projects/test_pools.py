"""Tests that under every pool the slots are busy while messages wait.

The tests assert the share of time in which all slots together were busy, measured by the tasks. A
worker whose loop is not notified of a free slot reaches only 5 %.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hermes_celery.core.run import Run, RunState
from hermes_celery.settings import read_settings
from hermes_celery.wiring.client import open_cron
from tests.projects.bed import Bed
from tests.support import eventually
from tests.system.conftest import script, script_job

pytestmark = pytest.mark.system

_MESSAGES, _SLOTS = 40, 4
_BUSY = 0.3


def busy(spans: list[tuple[float, float]], *, slots: int) -> float:
    """Return the busy share of the slots' time, from the start and end times of the tasks."""
    whole = max(end for _, end in spans) - min(began for began, _ in spans)
    return sum(end - began for began, end in spans) / (whole * slots)


@pytest.mark.parametrize(
    ("pool", "events", "prefetch"),
    [
        ("prefork", "", ""),
        ("threads", "", ""),
        ("gevent", "", ""),
        ("gevent", "-E", ""),
        ("solo", "", ""),
        ("gevent", "", "1"),
    ],
)
def test_the_slots_of_a_project_are_busy(
    tmp_path: Path, pool: str, events: str, prefetch: str
) -> None:
    slots = 1 if pool == "solo" else _SLOTS
    with Bed("pools", tmp_path) as bed:
        put = f"import pools\nfor _ in range({_MESSAGES}): pools.nap.delay()"
        assert bed.start(sys.executable, "-c", put).wait(timeout=30) == 0
        bed.worker(
            "-P",
            pool,
            "-c",
            str(slots),
            "--without-mingle",
            *filter(None, [events]),
            PREFETCH=prefetch,
        )
        naps = bed.await_notes("nap", _MESSAGES)
        spans = [(float(nap[1]), float(nap[2])) for nap in naps]
        assert busy(spans, slots=slots) > _BUSY


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_the_slots_of_the_package_app_are_busy(tmp_path: Path, pool: str) -> None:
    with Bed("pools", tmp_path) as bed:
        own = {**bed.environment, "HERMES_REDIS_URL": bed.server.url}
        cron = open_cron(read_settings(own))
        script(bed.home, "nap.sh", "sleep 0.05")
        job = cron.add(script_job("every 1h", "nap.sh"))
        for _ in range(_MESSAGES):
            cron.run(job.id)
        bed.start(
            sys.executable, "-m", "celery", "-A", "hermes_celery", "worker", "-P", pool,
            "-c", str(_SLOTS), "--without-mingle", HERMES_REDIS_URL=bed.server.url,
            HERMES_CELERY_EVENTS="off",
        )  # fmt: skip

        def ended() -> list[Run]:
            return cron.latest_runs(job.id, state=RunState.SUCCEEDED, limit=_MESSAGES)

        eventually(lambda: len(ended()) == _MESSAGES, what="finished runs")
        spans = [
            (run.started_at.timestamp(), run.finished_at.timestamp())
            for run in ended()
            if run.started_at and run.finished_at
        ]
        assert busy(spans, slots=_SLOTS) > _BUSY
