"""Checks the two fields that `test_fields` adds to a copy of the package; run as a program there.

Hermes' name of the field `colour` is `lamp`, and `colour` is shown in capitals. The field `season`
is part of the timing.
"""

# mypy: ignore-errors

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

import hermes_celery
from hermes_celery.cli import main
from hermes_celery.core.job import JobRequest
from hermes_celery.errors import JobError
from hermes_celery.interop.hermes.home import job_from_record
from hermes_celery.scheduling.declared_jobs import DeclaredJobs, synchronise
from hermes_celery.wiring.client import open_cron

NOON = datetime(2026, 6, 22, 12, tzinfo=UTC)


def typed(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def check_typing_showing_and_clearing() -> None:
    for command in ("add", "edit"):
        assert "--colour TEXT" in typed(command, "--help")
    job = json.loads(typed("add", "every 1h", "x", "--name", "n", "--colour", " red ", "--json"))
    assert (job["colour"], job["season"]) == ("RED", None)
    assert open_cron().show("n").spec.colour == "red"
    assert "colour:       RED" in typed("show", "n").splitlines()
    typed("edit", "n", "--colour", "")
    assert open_cron().show("n").spec.colour is None
    assert "colour" not in typed("show", "n")


def check_wrong_type() -> None:
    with pytest.raises(JobError, match=r"^colour is 5; it must be a text$"):
        open_cron().add(JobRequest(schedule="every 1h", prompt="x", colour=5))


def check_importing() -> None:
    record = {
        "id": "a" * 12, "prompt": "x", "lamp": "blue", "next_run_at": "2026-06-22T13:00:00+00:00",
        "schedule": {"kind": "interval", "minutes": 60},
    }  # fmt: skip
    assert job_from_record(record, timezone="UTC", now=NOON).spec.colour == "blue"


def check_declaring() -> None:
    jobs = open_cron().jobs

    def declare(now: datetime, **fields: str) -> None:
        request = JobRequest(schedule="every 2h", prompt="x", name="declared", **fields)
        synchronise(
            jobs,
            DeclaredJobs(manager="m", requests={"d": request}, default_timezone="UTC"),
            now=now,
        )

    declare(NOON)
    declare(NOON + timedelta(hours=1), colour="red")
    job = jobs.find("declared")
    assert (job.spec.colour, job.next_run_at) == ("red", NOON + timedelta(hours=2))
    declare(NOON + timedelta(hours=1), colour="red", season="winter")
    assert jobs.find("declared").next_run_at == NOON + timedelta(hours=3)


if __name__ == "__main__":
    check_typing_showing_and_clearing()
    check_wrong_type()
    check_importing()
    check_declaring()
    print(Path(hermes_celery.__file__).parent)
