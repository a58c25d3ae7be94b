"""A run's output is printed byte for byte, and our own lines stay separate from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from hermes_celery.cli import main
from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.store import Claim
from hermes_celery.wiring.client import open_cron


@pytest.fixture
def ended_run(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    valkey_url: str,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Return the id of a run that ended with the given output."""
    monkeypatch.setenv("HERMES_HOME", str(tmp_path))
    monkeypatch.setenv("HERMES_REDIS_URL", valkey_url)
    monkeypatch.setenv("HERMES_CELERY_NAMESPACE", namespace)
    cron = open_cron()
    run_id = cron.run(cron.add(JobRequest(schedule="every 1h", prompt="p", name="report")).id)
    claim = cron.runs.claim(run_id, token="t", now_ms=0, worker="w")
    assert isinstance(claim, Claim)
    cron.runs.finish(claim, Outcome(state=RunState.SUCCEEDED, output=request.param), now_ms=0)
    return run_id


@pytest.mark.usefixtures("valkey")
@pytest.mark.parametrize("command", [("logs",), ("logs", "-f")], ids=" ".join)
@pytest.mark.parametrize(
    ("ended_run", "shown"),
    [
        (b"all sales", "all sales\nreport: succeeded\n"),
        (b"all sales\n", "all sales\nreport: succeeded\n"),
        (b"", "report: succeeded\n"),
    ],
    indirect=["ended_run"],
)
def test_the_end_of_a_run_is_printed_on_its_own_line(
    command: tuple[str, ...], ended_run: str, shown: str
) -> None:
    result = CliRunner().invoke(main, [*command, ended_run])

    assert result.output == shown
    assert result.stdout == open_cron().output(ended_run)
