"""The examples without a Celery app of their own: what fails in them, and who gets which alert.

What goes well is typed from their READMEs by `tests/docs`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_celery import Client, JobRequest, RunState, open_cron
from hermes_celery.settings import read_settings
from tests.models import Model
from tests.receivers import http_receiver
from tests.support import eventually
from tests.system.conftest import Processes

pytestmark = [pytest.mark.pages, pytest.mark.system]

EXAMPLES = Path(__file__).parents[2] / "examples"
_WAIT_SECONDS = 40.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hermes home with what both examples have in their folders."""
    home = tmp_path_factory.mktemp("examples") / "home"
    shutil.copytree(EXAMPLES / "watchdog", home)
    shutil.copy(EXAMPLES / "own-agent" / "agent.py", home)
    return home


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.close()


@pytest.fixture(scope="module")
def cron(home: Path, model: Model) -> Iterator[Client]:
    """The verbs, beside what `hermes-celery up` starts."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = {
        **kept,
        "HERMES_HOME": str(home),
        "HERMES_CELERY_AGENT_COMMAND": (
            f"{sys.executable} agent.py {{prompt}} [--model {{model}}] --usage-file {{usage_file}}"
        ),
        "MODEL_URL": model.url,
    }
    processes = Processes(environment, home.parent)
    up = processes.start([sys.executable, "-m", "hermes_celery", "up"])
    try:
        eventually(lambda: "hermes-celery is up" in processes.log(up), what="`up`")
        yield open_cron(read_settings(environment))
    finally:
        up.terminate()
        up.wait(60)
        processes.end_all()


def test_a_watchdog_reports_an_incident_once_and_when_it_is_over(cron: Client, home: Path) -> None:
    with http_receiver() as receiver:
        targets = home / "cron" / "hermes-celery" / "targets.toml"
        targets.write_text(f'phone = "{receiver.url}"\n', encoding="utf-8")
        disk = JobRequest(
            schedule="every 1h", name="disk", script="disk.sh", no_agent=True,
            failure_deliver="phone",
        )  # fmt: skip
        job = cron.add(disk)
        assert ended(cron, job.id) == (RunState.SUCCEEDED, "")
        (home / ".env").write_text("DISK_LIMIT=0\n", encoding="utf-8")
        state, said = ended(cron, job.id)
        assert state is RunState.FAILED
        assert "% full" in said
        eventually(lambda: receiver.messages, what="the alert")
        assert ended(cron, job.id)[0] is RunState.FAILED
        (home / ".env").write_text("DISK_LIMIT=100\n", encoding="utf-8")
        assert ended(cron, job.id) == (RunState.SUCCEEDED, "")
        eventually(lambda: len(receiver.messages) >= 2, what="that it is over")
        failed, over = receiver.messages
        assert "Cron 'disk' failed: Script exited with code 1" in failed
        assert "Cron 'disk' works again; it failed 2 times" in over


def test_a_custom_agent_answers_counts_its_tokens_and_says_why_it_failed(
    cron: Client, model: Model
) -> None:
    morning = cron.add(JobRequest(schedule="every 1h", name="morning", prompt="Wish me well."))
    assert ended(cron, morning.id) == (RunState.SUCCEEDED, "")
    run = cron.latest_runs("morning", limit=1)[0]
    assert (cron.output(run.id), run.tokens) == ("hello from the model\n", 750)
    assert model.prompt().endswith("Wish me well.")
    model.status = 401
    state, said = ended(cron, morning.id)
    assert (state, said) == (
        RunState.FAILED,
        "the model does not answer: HTTP Error 401: Unauthorized",
    )


def ended(cron: Client, job: str) -> tuple[RunState, str]:
    """Run a job, and return how that ended, and why if it failed."""
    run = cron.wait(cron.run(job), seconds=_WAIT_SECONDS)
    return run.state, run.error or ""
