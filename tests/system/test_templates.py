"""Tests that templates are rendered in a process of their own under every pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hermes_celery.client import Client
from hermes_celery.core.run import DeliveryState
from hermes_celery.store import Database
from tests.receivers import http_receiver
from tests.support import eventually, replaced
from tests.system.conftest import Processes, await_worker, script, script_job

pytestmark = pytest.mark.system


def pools(*common: str) -> list[Any]:
    """Return all pools; those not in `common` are marked slow."""
    return [
        pytest.param(pool, marks=() if pool in common else pytest.mark.slow)
        for pool in ("prefork", "threads", "solo", "gevent")
    ]


@pytest.mark.parametrize("pool", pools("prefork"))
def test_a_template_is_rendered_and_a_hostile_one_only_loses_its_text(
    processes: Processes, valkey: Database, cron: Client, home: Path, pool: str
) -> None:
    processes.celery("worker", "--pool", pool, HERMES_CELERY_WRAP="off")
    await_worker(valkey)
    script(home, "hi.sh", "echo hello")
    with http_receiver() as http:
        hostile, endless, good = (
            cron.run(
                cron.add(
                    replaced(script_job("every 1h", "hi.sh"), deliver=http.url, template=template)
                ).id
            )
            for template in (
                "{{ 'x' * 10**9 }}",
                "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
                "{{ job.name }} said {{ output }}",
            )
        )
        for run_id in (good, hostile, endless):
            eventually(
                lambda i=run_id: cron.runs.get(i).delivery is DeliveryState.DELIVERED,  # type: ignore[misc]
                what="its delivery",
            )
        assert sorted(http.messages) == ["hello", "hello", "hi.sh said hello"]
    assert cron.runs.get(good).delivery_warning is None
    assert "MemoryError" in (cron.runs.get(hostile).delivery_warning or "")
    # The limit is 5 s of CPU time; a busy machine reaches the limit of 20 s of real time first.
    assert "it took " in (cron.runs.get(endless).delivery_warning or "")
