"""Tests that bad values in Redis end no beat, stop no other job, and can all be shown."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from hermes_celery.cli import main
from hermes_celery.scheduling.beat import Beat
from hermes_celery.settings import read_settings
from hermes_celery.store import Database, Incidents, Jobs, Runs, Waker
from hermes_celery.store.loss_note import LossNote
from hermes_celery.wiring.own_app import make_app
from hermes_celery.wiring.project_jobs import make_beat
from tests.store.bad_values import BAD_VALUES, due_at_once, plant
from tests.support import HandClock, a_job, eventually

#: On the hand-set clock: rescue begins 5 s after the election, scans come every 10 s.
STEP_SECONDS, STEPS = 0.3, 60
#: Bad values that need no incident: nothing is lost, or another part of a beat removes them.
_WITHOUT_INCIDENT = {
    "job's state is unknown", "job's numbers are words",
    "due score is -inf", "due score is inf", "due score is absurd",
    "due ids are garbage", "due ids are garbage with score -inf", "job ids are garbage",
    "names are garbage", "queued ids are garbage", "queued score is -inf",
    # Such a delivery is logged by the duty that pushes deliveries.
    "delivery's numbers are words", "delivery is a list",
    "run's output is a list", "run's words are unknown",
    "heartbeat ids are garbage", "run ids are garbage",
    "run ids are garbage with score inf", "runs by job are garbage", "old run is a list",
    "completed ids are garbage", "completed job is unreadable", "grown ids are garbage",
    "delivery's parts are not JSON", "delivery's parts are unknown",
    "incident of an unknown kind", "incident without fields", "incident's numbers are words",
    "incident is a list", "workers are garbage", "leader's time is a word",
    # With one shard the list of beats is not read.
    "beats are a string",
}  # fmt: skip


class Impatient(Waker):
    """A waker that checks for a wake-up call and never waits for one."""

    def wait(self, seconds: float) -> bool:
        return super().wait(0)


@pytest.fixture
def app(
    tmp_path: Path, valkey_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Celery]:
    for name, value in {
        "HERMES_HOME": str(tmp_path),
        "HERMES_REDIS_URL": valkey_url,
        "HERMES_CELERY_NAMESPACE": namespace,
        "HERMES_TIMEZONE": "UTC",
        "HERMES_CELERY_AGENT": "true",
    }.items():
        monkeypatch.setenv(name, value)
    app = make_app(read_settings())
    yield app
    app.close()


class Stage:
    """A beat with a hand-set clock, and one healthy job."""

    def __init__(self, app: Celery, database: Database) -> None:
        self.database = database
        self.clock = HandClock()
        self.clock.ms = database.now_ms()
        self.beat: Beat = make_beat(app, owner="beat", clock=self.clock, waker=Impatient(database))
        self.healthy = Jobs(database).add(a_job(id="aaaaaaaaaaaa", name="healthy"))
        due_at_once(database, self.healthy, self.clock.ms)

    def steps(self, count: int = STEPS) -> None:
        for _ in range(count):
            self.beat.step()
            self.clock.advance(STEP_SECONDS)

    def runs_of_healthy(self) -> int:
        return len(Runs(self.database).latest(job_id=self.healthy.id, limit=10))

    def has_run_after(self, steps: int) -> bool:
        self.steps(steps)
        return self.runs_of_healthy() == 1

    def messages(self) -> list[object]:
        """Return all pushed messages; raise on invalid JSON or UTF-8, which would end a worker."""
        keys = self.database.keys
        return [
            json.loads(json.dumps(json.loads(message), ensure_ascii=False).encode())
            for queue in (keys.default_queue, keys.delivery_queue)
            for message in self.database.call("LRANGE", queue, 0, -1)
        ]

    def due_again(self) -> None:
        """End the healthy job's run and make the job due once more."""
        database = self.database
        database.call("DEL", database.keys.active(self.healthy.id))
        database.call("HSET", database.keys.job(self.healthy.id), "next_ms", self.clock.ms)
        # Shard 0 is always ticked; the beat moves the entry if the job belongs elsewhere.
        database.call("ZADD", database.keys.due_of(0), self.clock.ms, self.healthy.id)


@pytest.fixture
def stage(app: Celery, valkey: Database) -> Iterator[Stage]:
    stage = Stage(app, valkey)
    yield stage
    stage.beat.stop()


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def unforeseen(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the logged steps and duties that ended with an unexpected exception."""
    return [record.getMessage() for record in caplog.records if record.exc_info]


def test_the_collection_has_at_least_25_bad_values() -> None:
    assert len(BAD_VALUES) >= 25
    assert set(BAD_VALUES) >= _WITHOUT_INCIDENT


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_bad_value_stops_no_other_job(
    stage: Stage, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plant(stage.database, name, now_ms=stage.clock.ms)
    # The repair gives a lease an expiry, which runs on the server's own clock.
    eventually(lambda: stage.has_run_after(1), what="the healthy job's run")
    stage.steps()
    stage.due_again()
    stage.steps(5)
    assert stage.runs_of_healthy() == 2, caplog.text[-3000:]
    assert unforeseen(caplog) == []
    assert stage.messages()
    # The incident of a value that was repaired meanwhile is closed already.
    is_reported = "incident.told incident=broken" in caplog.text
    assert is_reported or name in _WITHOUT_INCIDENT, caplog.text[-3000:]
    shown()


def test_without_bad_values_there_is_no_incident_and_no_warning(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    stage.steps()
    assert stage.runs_of_healthy() == 1
    assert Incidents(stage.database).open() == []
    assert caplog.text == ""


def test_all_bad_values_together_stop_no_other_job(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    places = [plant(stage.database, name, now_ms=stage.clock.ms) for name in BAD_VALUES]
    eventually(lambda: stage.has_run_after(1), what="the healthy job's run")
    stage.steps(100)
    assert unforeseen(caplog) == []
    shown()
    for place in places:
        if stage.database.call("ZSCORE", stage.database.keys.jobs, place.job_id) is not None:
            assert place.job_id in typed("list", "--all").stdout
            removed = typed("remove", place.job_id)
            assert removed.exit_code == 0, (place.job_id, removed.output)
            assert place.job_id not in typed("list", "--all").stdout


def shown() -> None:
    """Check that every command that shows records succeeds."""
    for command in (
        ("list", "--all"), ("list", "--json"), ("list", "--name", "bad"), ("runs",),
        ("runs", "--json"), ("status",), ("status", "--json"), ("incidents",),
        ("incidents", "--json"), ("shards",), ("tick",), ("logs", "healthy"), ("show", "healthy"),
    ):  # fmt: skip
        result = typed(*command)
        assert result.exit_code == 0, (command, result.output, result.exception)
    assert "healthy" in typed("list", "--all").stdout
    assert any(job["name"] == "healthy" for job in json.loads(typed("list", "--json").stdout))
    doctor = typed("doctor")
    assert isinstance(doctor.exception, SystemExit | None), doctor.exception
    assert "beat" in doctor.stdout


def test_a_leader_declares_jobs_even_if_its_loss_check_fails(
    app: Celery, valkey: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The note on disk has a time outside the calendar."""
    stage, place = Stage(app, valkey), read_settings().state_dir
    LossNote(place, valkey).write()
    (note,) = place.glob("seen-*.json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"mark": "ab", "at_ms": 10**18}))
    assert stage.has_run_after(STEPS)
    failed = [line for line in caplog.messages if line.startswith("duty.failed")]
    assert any("look for lost jobs at first" in line for line in failed)
    assert not any("duty=begin" in line for line in failed)
