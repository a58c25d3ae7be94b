"""Tests that records of 0.1.0 are read, continued and performed, and none is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from hermes_celery.cli import main
from hermes_celery.core.job import JobState
from hermes_celery.core.run import DeliveryState, Outcome, RunState
from hermes_celery.errors import JobError
from hermes_celery.instant import from_ms
from hermes_celery.scheduling.run_rescue import Rescuer
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.store import FORMAT, Claim, Database, DueIndex, Formats, Incidents, Migrator
from tests.recorded_stores import Recording, content, recording
from tests.store.delivering_host import TOKEN, DeliveringHost, PlainDeliveryMessages
from tests.support import HandClock, Store

#: A queue of the recording whose name is outside the namespace.
FOREIGN_QUEUE = "shop\x06\x163"


class Recorded:
    """A recorded namespace of 0.1.0, loaded into today's store."""

    def __init__(self, database: Database, home: Path, *, shards: int) -> None:
        keys = database.keys
        self.was: Recording = recording("0.1.0", shards=shards, namespace=keys.namespace)
        self.was.load(database)
        for shard in range(shards):
            database.call("SET", keys.term_of(shard), TOKEN)
        self.clock = HandClock()
        self.clock.ms = self.was.now_ms
        self.store = Store(database, self.clock)
        self.host = DeliveringHost(self.store, home, HERMES_HOME=str(home), PATH="/usr/bin:/bin")
        self.host.messages = PlainDeliveryMessages(keys.delivery_queue)
        self.database = database
        self.keys = keys
        self.shards = shards

    @property
    def jobs(self) -> dict[str, dict[str, str]]:
        """The recorded jobs' fields."""
        return self.was.hashes(self.keys.job(""))

    @property
    def runs(self) -> dict[str, dict[str, str]]:
        """The recorded runs' fields."""
        return self.was.hashes(self.keys.run(""))

    def named(self, name: str) -> str:
        """Return the id of a recorded job by its name."""
        (job_id,) = self.store.jobs.ids_named(name)
        return job_id

    def tick(self) -> int:
        """Tick every shard; return the number of broken jobs."""
        reports = [
            Ticker(DueIndex(self.database, shard=shard), self.store.messages).tick(
                token=TOKEN, now_ms=self.clock.ms
            )
            for shard in range(self.shards)
        ]
        return sum(report.broken for report in reports)

    def work(self) -> None:
        """Let a minute pass; rescue, perform every message, and deliver."""
        self.clock.advance(61)
        Rescuer(self.store.jobs, self.store.runs, self.store.messages).rescue(
            token=TOKEN, now_ms=self.clock.ms
        )
        for queue in (self.keys.default_queue, FOREIGN_QUEUE):
            while message := self.database.call("RPOP", queue):
                self.perform(message_id(message))
        self.host.rescue()
        while message := self.database.call("RPOP", self.keys.delivery_queue):
            self.host.deliverer().deliver(message_id(message))

    def perform(self, run_id: str) -> None:
        claim = self.store.runs.claim(run_id, token="t", now_ms=self.clock.ms, worker="w")
        if not isinstance(claim, Claim):
            return
        outcome = Outcome(state=RunState.SUCCEEDED, output=b"new")
        answer = self.store.runs.finish(claim, outcome, now_ms=self.clock.ms)
        assert answer == "ok", run_id


def message_id(message: str) -> str:
    """Return the run or delivery id of a message, recorded or plain."""
    if not message.startswith("{"):
        return message
    return str(json.loads(message)["headers"]["id"]).partition(":")[0]


@pytest.fixture(params=[1, 4], ids=["one shard", "four shards"])
def recorded(
    request: pytest.FixtureRequest, database: Database, tmp_path: Path
) -> Iterator[Recorded]:
    """Yield the loaded recording."""
    recorded = Recorded(database, tmp_path, shards=request.param)
    yield recorded
    recorded.was.unload(database)


def spec_of(fields: dict[str, str]) -> Any:
    return json.loads(fields["spec"])


def test_the_recording_holds_every_state_of_0_1_0(recorded: Recorded) -> None:
    assert {fields["state"] for fields in recorded.jobs.values()} == set(JobState)
    assert {fields["state"] for fields in recorded.runs.values()} == {
        # `sent` is from a later version.
        *set(RunState) - {RunState.SENT}
    }
    states = {fields.get("delivery", "none") for fields in recorded.runs.values()}
    assert states == set(DeliveryState)


def test_every_field_of_every_job_is_read(recorded: Recorded) -> None:
    jobs = {job.id: job for job in recorded.store.cron.all_jobs()}
    assert set(jobs) == set(recorded.jobs)
    for job_id, fields in recorded.jobs.items():
        job = jobs[job_id]
        assert json.loads(msgspec.json.encode(job.spec)) == spec_of(fields), job.name
        assert job.state == fields["state"]
        assert job.revision == int(fields["revision"])
        assert job.completed == int(fields.get("completed", 0))
        assert (job.last_error or "") == fields.get("last_error", "")
        assert job.as_json()["name"] == spec_of(fields)["name"]
        assert recorded.store.cron.show(job.name) == job


def test_every_field_of_every_run_is_read(recorded: Recorded) -> None:
    store = recorded.store
    assert {run.id for run in store.cron.latest_runs(limit=1000)} == set(recorded.runs)
    outputs = recorded.was.hashes(recorded.keys.output(""))
    for run_id, fields in recorded.runs.items():
        run = store.runs.get(run_id)
        assert run.state == fields["state"]
        assert run.trigger == fields.get("trigger", "schedule")
        assert run.delivery == fields.get("delivery", "none")
        assert (run.error, run.reason) == (fields.get("error"), fields.get("reason"))
        assert run.attempt == int(fields.get("attempt", 1))
        expected = content(outputs.get(run_id, ""))
        output = store.runs.output(run_id)
        assert output == (expected.encode() if isinstance(expected, str) else expected)


def test_every_incident_and_delivery_is_read(recorded: Recorded) -> None:
    incidents = Incidents(recorded.database)
    stored = recorded.was.hashes(recorded.keys.incident(""))
    open_ids = {key for key, fields in stored.items() if "closed_ms" not in fields}
    assert {incident.id for incident in incidents.open()} == open_ids
    assert len(stored) > len(open_ids), "the recording must hold a closed incident"
    assert any(incident.acked_at for incident in incidents.open())
    for incident in incidents.open():
        assert incident.kind == stored[incident.id]["kind"]
        assert incident.count == int(stored[incident.id]["count"])
    for delivery_id, fields in recorded.was.hashes(recorded.keys.delivery("")).items():
        record = recorded.host.deliveries.get(delivery_id)
        assert (record.text, record.deliver) == (fields.get("text", ""), fields.get("deliver", ""))
        for number, part in enumerate(record.parts or ()):
            assert part.state == fields.get(f"{number}:state", "pending")
            assert part.attempts == int(fields.get(f"{number}:attempts", 0))


def test_an_edit_changes_only_the_edited_fields(recorded: Recorded) -> None:
    store = recorded.store
    for job_id, was in recorded.jobs.items():
        changes = {"name": f"new {job_id}"}
        if spec_of(was).get("managed_by"):
            with pytest.raises(JobError, match="is declared in the project "):
                store.cron.edit(job_id, changes)
            continue
        if was["state"] == JobState.ERROR:
            changes["schedule"] = "every 3h"
        store.cron.edit(job_id, changes)
        now = recorded.database.call("HGETALL", recorded.keys.job(job_id))
        assert int(now["revision"]) == int(was["revision"]) + 1
        assert spec_of(now)["name"] == changes["name"]
        changed = {"name", "schedule", "schedule_display", "anchor_ms"} if len(changes) > 1 else {
            "name"
        }  # fmt: skip
        assert without(spec_of(now), *changed) == without(spec_of(was), *changed)
        # An edit resets the count of failures; a new schedule is planned again.
        fresh = {"revision", "spec", "failures"}
        if len(changes) > 1:
            fresh |= {"state", "next_ms"}
        assert without(now, *fresh) == without(was, *fresh)


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def test_every_job_can_be_paused_resumed_and_removed(recorded: Recorded) -> None:
    cron = recorded.store.cron
    for job_id, fields in recorded.jobs.items():
        cron.pause(job_id)
        assert cron.show(job_id).state is JobState.PAUSED
        if fields["state"] in (JobState.SCHEDULED, JobState.PAUSED):
            assert cron.resume(job_id).state is JobState.SCHEDULED
        cron.remove(job_id, declared=True)
    assert list(cron.all_jobs()) == []
    assert sum(recorded.database.call("ZCARD", recorded.keys.due_of(s)) for s in range(4)) == 0


def test_all_schedules_continue(recorded: Recorded) -> None:
    before = {run.id for run in recorded.store.cron.latest_runs(limit=1000)}
    recorded.clock.advance(3600)
    due = {
        job.id
        for job in recorded.store.cron.all_jobs()
        if job.state is JobState.SCHEDULED
        and job.next_run_at is not None
        and job.next_run_at <= from_ms(recorded.clock.ms)
    }
    assert len(due) > 20
    assert recorded.tick() == 0
    new = {
        run.job_id for run in recorded.store.cron.latest_runs(limit=1000) if run.id not in before
    }
    assert new == due
    for job_id in due:
        job = recorded.store.cron.show(job_id)
        if job.state is JobState.SCHEDULED:
            assert job.next_run_at is not None, job.name
            assert job.next_run_at > from_ms(recorded.clock.ms)


def test_every_run_ends_and_every_delivery_continues(recorded: Recorded) -> None:
    store = recorded.store
    waiting = {run_id for run_id, f in recorded.runs.items() if f["state"] in ("queued", "running")}
    running = {run_id for run_id in waiting if recorded.runs[run_id]["state"] == "running"}
    for _ in range(30):
        recorded.work()
        if all(store.runs.get(run_id).state.is_final for run_id in waiting):
            break
    ends = {run_id: store.runs.get(run_id).state for run_id in waiting}
    # Running runs get no heartbeat, so they are lost; queued ones run now.
    assert {run_id for run_id, state in ends.items() if state is RunState.LOST} == running
    assert set(ends.values()) <= {RunState.SUCCEEDED, RunState.LOST}
    assert store.runs.counts() == {"queued": 0, "running": 0}
    for job_id in recorded.jobs:
        assert recorded.database.call("EXISTS", recorded.keys.active(job_id)) == 0
        assert recorded.database.call("EXISTS", recorded.keys.held(job_id)) == 0
    # Pending deliveries have arrived, or are being retried.
    unplanned = store.cron.latest_runs(recorded.named("unplanned"), limit=99)
    assert DeliveryState.DELIVERED in {run.delivery for run in unplanned}
    assert (recorded.host.home / "output" / "later").read_text().count("not yet planned") == 1
    (unreachable,) = [
        run for run in store.cron.latest_runs(recorded.named("unreachable"), limit=99)
        if run.id in recorded.runs and run.delivery is DeliveryState.PENDING
    ]  # fmt: skip
    (part,) = recorded.host.deliveries.get(unreachable.id).parts or ()
    assert part.attempts > 1


def test_an_ended_run_does_not_change(recorded: Recorded) -> None:
    ended = {run_id for run_id, f in recorded.runs.items() if RunState(f["state"]).is_final}
    for run_id in ended:
        before = recorded.database.hashes([recorded.keys.run(run_id)])
        assert recorded.store.runs.claim(run_id, token="t", now_ms=recorded.clock.ms,
                                         worker="w") in ("taken", "gone")  # fmt: skip
        assert recorded.store.cron.cancel(run_id) == "over"
        assert recorded.database.hashes([recorded.keys.run(run_id)]) == before


def test_a_leader_writes_the_format_and_changes_nothing_else(recorded: Recorded) -> None:
    def stored() -> dict[str, Any]:
        names = recorded.database.call("KEYS", recorded.keys.prefix + "*")
        kinds = {name: recorded.database.call("TYPE", name) for name in names}
        return {
            name: recorded.database.call("HGETALL", name) if kind == "hash" else kind
            for name, kind in kinds.items()
            if name != recorded.keys.format
        }

    before = stored()
    migrator = Migrator(recorded.database)
    while migrator.step(token=TOKEN, now_ms=recorded.clock.ms):
        pass
    assert Formats(recorded.database).read().format == FORMAT
    assert stored() == before


def test_the_commands_show_every_recorded_job_run_and_incident(
    valkey: Database, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(valkey, tmp_path, shards=4)
    for name, value in {
        "HERMES_HOME": str(tmp_path),
        "HERMES_REDIS_URL": valkey_url,
        "HERMES_CELERY_NAMESPACE": valkey.keys.namespace,
    }.items():
        monkeypatch.setenv(name, value)

    def typed(*arguments: str) -> str:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (arguments, result.output)
        return result.stdout

    assert {job["id"] for job in json.loads(typed("list", "--json"))} == set(recorded.jobs)
    assert typed("list").count("\n") > len(recorded.jobs)
    shown = json.loads(typed("runs", "-n", "1000", "--json"))
    assert {run["id"] for run in shown} == set(recorded.runs)
    for job_id in recorded.jobs:
        typed("show", job_id)
    for run_id in recorded.runs:
        typed("logs", run_id)
    assert len(json.loads(typed("incidents", "--json"))) == Incidents(valkey).count()
    assert json.loads(typed("status", "--json"))["jobs"] == len(recorded.jobs)
    before = {key: valkey.call("HGETALL", recorded.keys.job(key)) for key in recorded.jobs}
    assert typed("fsck").endswith(": all agree\n")
    typed("fsck", "--repair")
    assert before == {key: valkey.call("HGETALL", recorded.keys.job(key)) for key in recorded.jobs}
    recorded.was.unload(valkey)
