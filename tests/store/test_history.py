"""Tests of trimming history by number and age, and of noticing a server that lost its data."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import pytest

from hermes_celery.core.incidents import TroubleKind
from hermes_celery.core.job import JobRequest, JobState
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.delivering.trouble_reporter import TroubleReporter
from hermes_celery.observe.lost_jobs import lost_jobs
from hermes_celery.scheduling.emptied_server import LossWatch
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.store import Database, Deliveries, History, Incidents, Retention, connect
from hermes_celery.store.loss_note import LossNote
from tests.support import HandClock, Store, a_job, replaced

DAY = 86_400


@pytest.fixture
def history(store: Store) -> History:
    """Return a history that keeps three runs a job for two days.

    Completed jobs are kept for seven days.
    """
    return History(store.database, retention=Retention(runs_per_job=3, run_days=2))


def run_once(store: Store, name: str, output: bytes = b"x") -> str:
    store.clock.advance(1)
    run_id = store.cron.run(name)
    outcome = Outcome(state=RunState.SUCCEEDED, output=output, stderr=b"e")
    store.runs.finish(store.claim(run_id), outcome, now_ms=store.clock.ms)
    return run_id


def test_the_latest_runs_of_each_job_are_kept(store: Store, history: History) -> None:
    for name in "ab":
        store.cron.add(JobRequest(schedule="every 1h", prompt="x", name=name))
    ran = {name: [run_once(store, name) for _ in range(n)] for name, n in (("a", 5), ("b", 2))}
    assert history.trim(store.clock.ms).runs == 2
    assert [run.id for run in store.cron.latest_runs("a")] == ran["a"][:1:-1]
    assert len(store.cron.latest_runs("b")) == 2
    for run_id in ran["a"][:2]:
        left = store.database.call("KEYS", f"*{run_id}")
        assert [key for key in left if ":trigger:" not in key] == []
    assert history.trim(store.clock.ms).runs == 0


def test_many_runs_are_deleted_in_small_steps(store: Store, history: History) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="a"))
    for _ in range(120):
        run_once(store, "a")
    steps = []
    while step := history.trim(store.clock.ms).runs:
        steps.append(step)
    assert steps == [50, 50, 17]


def pile_up(store: Store, *, jobs: int, runs: int) -> None:
    """Store records of ended runs, as the scripts leave them."""
    keys, ms = store.database.keys, store.clock.ms
    commands: list[tuple[str | int, ...]] = []
    for job_id in (f"{number:012x}" for number in range(jobs)):
        commands.append(("SADD", keys.grown, job_id))
        for run_id in (f"{job_id}-20260622T1100{number:02d}Z" for number in range(runs)):
            commands.append(("HSET", keys.run(run_id), "state", "succeeded"))
            commands.append(("ZADD", keys.runs, ms, run_id))
            commands.append(("ZADD", keys.job_runs, 0, run_id))
    store.database.call_many(commands)


def test_a_trim_deletes_250_runs_at_most_however_many_jobs_have_too_many(
    store: Store, history: History
) -> None:
    pile_up(store, jobs=45, runs=3 + 50)
    steps = []
    while step := history.trim(store.clock.ms).runs:
        steps.append(step)
    assert steps == [250] * 9
    assert store.database.call("ZCARD", store.database.keys.job_runs) == 45 * 3
    assert store.database.call("ZCARD", store.database.keys.runs) == 45 * 3
    assert store.database.call("SCARD", store.database.keys.grown) == 0


def test_old_runs_are_deleted_even_if_they_are_few(store: Store, history: History) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="a"))
    run_once(store, "a")
    store.clock.advance(2 * DAY + 2)
    fresh = run_once(store, "a")
    history.trim(store.clock.ms)
    assert [run.id for run in store.cron.latest_runs()] == [fresh]


def test_an_active_run_is_never_deleted(store: Store, history: History) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="a"))
    waiting = store.cron.run("a")
    running = store.claim(store.cron.run("a")).run_id
    store.clock.advance(3 * DAY)
    history.trim(store.clock.ms)
    assert {run.id for run in store.cron.latest_runs()} == {waiting, running}


def test_the_number_of_keys_does_not_grow_with_the_number_of_runs(
    store: Store, history: History
) -> None:
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="a"))
    sizes = []
    for _ in range(4):
        for _ in range(25):
            run_once(store, "a")
        while history.trim(store.clock.ms).runs:
            pass
        keys = store.database.call("KEYS", f"{store.database.keys.prefix}*")
        sizes.append(len([key for key in keys if ":trigger:" not in key]))
    assert len(set(sizes)) == 1


def test_completed_jobs_are_kept_for_a_week(store: Store, history: History) -> None:
    store.database.call("SET", store.database.keys.term, 1)
    job = store.cron.add(JobRequest(schedule="in 1h", prompt="x"))
    store.clock.advance(3600)
    Ticker(store.due, store.messages).tick(token=1, now_ms=store.clock.ms)
    done = Outcome(state=RunState.SUCCEEDED)
    store.runs.finish(store.claim(store.queue()[0]), done, now_ms=store.clock.ms)
    store.clock.advance(7 * DAY - 1)
    assert history.remove_completed(store.jobs, store.clock.ms) == 0
    assert store.cron.show(job.id).state is JobState.COMPLETED
    store.clock.advance(2)
    assert history.remove_completed(store.jobs, store.clock.ms) == 1
    assert store.jobs.count() == 0


def test_a_trim_says_whether_there_is_more_to_delete(store: Store, history: History) -> None:
    pile_up(store, jobs=6, runs=3 + 50)
    assert [history.trim(store.clock.ms).has_more for _ in range(3)] == [True, False, False]


def test_an_unreadable_completed_job_does_not_block_the_others(
    store: Store, history: History
) -> None:
    store.database.call("SET", store.database.keys.term, 1)
    for name in ("torn", "whole"):
        store.cron.add(JobRequest(schedule="in 1h", prompt="x", name=name))
    torn = store.cron.show("torn")
    store.clock.advance(3600)
    Ticker(store.due, store.messages).tick(token=1, now_ms=store.clock.ms)
    for run_id in store.queue():
        store.runs.finish(
            store.claim(run_id), Outcome(state=RunState.SUCCEEDED), now_ms=store.clock.ms
        )
    store.database.call("HSET", store.database.keys.job(torn.id), "spec", "{")
    store.clock.advance(7 * DAY + 1)
    assert history.remove_completed(store.jobs, store.clock.ms) == 1
    assert history.remove_completed(store.jobs, store.clock.ms) == 0
    assert store.jobs.count() == 1


def test_a_completed_job_that_got_a_new_schedule_is_kept(store: Store, history: History) -> None:
    store.database.call("SET", store.database.keys.term, 1)
    job = store.cron.add(JobRequest(schedule="in 1h", prompt="x"))
    store.clock.advance(3600)
    Ticker(store.due, store.messages).tick(token=1, now_ms=store.clock.ms)
    done = Outcome(state=RunState.SUCCEEDED)
    store.runs.finish(store.claim(store.queue()[0]), done, now_ms=store.clock.ms)
    store.cron.edit(job.id, {"schedule": "every 1h"})
    store.clock.advance(8 * DAY)
    assert history.remove_completed(store.jobs, store.clock.ms) == 0
    assert store.cron.show(job.id).state is JobState.SCHEDULED


def test_a_server_that_lost_its_data_is_noticed(store: Store, tmp_path: Path) -> None:
    loss_note = LossNote(tmp_path, store.database)
    assert loss_note.missing() is None
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    assert loss_note.missing() is None
    loss_note.write()
    assert loss_note.missing() is None
    for key in store.database.call("KEYS", f"{store.database.keys.prefix}*"):
        store.database.call("DEL", key)
    for _ in range(2):
        seen = LossNote(tmp_path, store.database).missing()
        assert seen is not None
        assert seen.jobs == 1
        loss_note.write()
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    assert loss_note.missing() is not None
    loss_note.write()
    assert loss_note.missing() is None


def _without_memory(store: Store) -> None:
    for key in store.database.call("KEYS", f"{store.database.keys.prefix}*"):
        store.database.call("DEL", key)


def test_each_server_has_its_own_loss_note(valkey: Database, tmp_path: Path) -> None:
    here, store = valkey, Store(valkey, HandClock())
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    loss_note = LossNote(tmp_path, here)
    loss_note.write()
    (note,) = tmp_path.glob("seen-*.json")
    other = Database(connect("redis://elsewhere.invalid:6380/3"), keys=here.keys)
    assert other.address == "redis://elsewhere.invalid:6380/3"
    digest = sha256(other.address.encode()).hexdigest()[:12]
    assert digest not in note.name
    # Jobs of another server under the same namespace are no loss here.
    there = tmp_path / f"seen-{here.keys.namespace}-{digest}.json"
    there.write_text('{"server": "x", "mark": "another", "jobs": 4, "at_ms": 1}')
    assert loss_note.missing() is None
    loss_note.write()
    assert "another" in there.read_text()


def test_localhost_and_127_0_0_1_are_the_same_server(valkey: Database) -> None:
    def at(host: str) -> str:
        return Database(connect(f"redis://{host}:6399/0"), keys=valkey.keys).address

    assert at("localhost") == at("127.0.0.1") != at("10.0.0.1")


def test_a_note_of_an_older_version_is_reported_once(store: Store, tmp_path: Path) -> None:
    old = tmp_path / f"seen-{store.database.keys.namespace}.json"
    old.write_text('{"mark": "before", "jobs": 4, "at_ms": 1}')
    loss_note = LossNote(tmp_path, store.database)
    assert loss_note.missing() is not None
    assert loss_note.missing_still() is None, "it may be another server's"
    loss_note.keep()
    assert old.exists(), "there is no job yet to note"
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    loss_note.keep()
    assert not old.exists()
    assert loss_note.missing() is None


def _watch(store: Store, place: Path) -> LossWatch:
    incidents = Incidents(store.database)
    reporter = TroubleReporter(
        incidents=incidents, deliveries=Deliveries(store.database), alerts="local"
    )
    return LossWatch(
        LossNote(place, store.database), reporter=reporter, incidents=incidents, clock=store.clock
    )


def test_lost_data_is_an_incident_until_it_is_acknowledged(store: Store, tmp_path: Path) -> None:
    incidents, watch = Incidents(store.database), _watch(store, tmp_path)
    for _ in range(2):
        store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    watch.step(store.clock.ms)
    _without_memory(store)
    watch.begin(store.clock.ms)
    (gone,) = incidents.open()
    assert (gone.kind, gone.count) == (TroubleKind.GONE, 1)
    assert "2 jobs that were here" in gone.text
    elsewhere = tmp_path / "elsewhere"
    for _ in range(3):
        # Declared jobs come back in the same number; their pauses and runs do not.
        store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
        store.clock.advance(61)
        watch.step(store.clock.ms)
        assert lost_jobs(store.database, None) == [gone.text]
        # Neither a leader that begins again nor one without a note closes the incident.
        watch.begin(store.clock.ms)
        _watch(store, elsewhere).begin(store.clock.ms)
        _watch(store, elsewhere).step(store.clock.ms)
        assert [one.count for one in incidents.open()] == [1]


def test_an_acknowledged_loss_is_not_reported_again_by_any_host(
    store: Store, tmp_path: Path
) -> None:
    incidents, other = Incidents(store.database), _watch(store, tmp_path / "other")
    watch = _watch(store, tmp_path)
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    other.begin(store.clock.ms)
    watch.begin(store.clock.ms)
    _without_memory(store)
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    watch.begin(store.clock.ms)
    (gone,) = incidents.open()
    assert incidents.ack(gone.id, now_ms=store.clock.ms) == "ok"
    assert lost_jobs(store.database, LossNote(tmp_path, store.database)) == []
    watch.step(store.database.now_ms())
    assert incidents.open() == []
    other.begin(store.clock.ms)
    assert incidents.open() == []
    assert lost_jobs(store.database, LossNote(tmp_path / "other", store.database)) == []


def test_a_missing_mark_beside_its_copy_is_restored_and_is_not_a_loss(
    store: Store, tmp_path: Path
) -> None:
    database, watch = store.database, _watch(store, tmp_path)
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    watch.begin(store.clock.ms)
    mark = database.call("GET", database.keys.mark)
    for renew in (watch.begin, watch.step):
        for lost in (database.keys.mark, database.keys.sweep):
            database.call("DEL", lost)
            if lost == database.keys.mark:
                # Adding a job writes a new mark.
                store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
            assert lost_jobs(database, LossNote(tmp_path, database)) == []
            store.clock.advance(11)
            renew(store.clock.ms)
            assert database.call("GET", database.keys.mark) == mark
    assert Incidents(database).open() == []
    _without_memory(store)
    watch.begin(store.clock.ms)
    assert database.call("GET", database.keys.mark) is None, "all data is gone, not only the mark"
    assert len(lost_jobs(database, None)) == 1


def test_a_declared_job_stays_when_it_is_completed(store: Store) -> None:
    """If it were removed, it would be declared again and run once more."""
    for number, managed_by in enumerate((None, "project:shop")):
        job = a_job(id=f"{number:012x}", name=f"job {number}")
        spec = replaced(job.spec, managed_by=managed_by)
        store.jobs.add(replaced(job, spec=spec, state=JobState.COMPLETED))
        store.database.call("ZADD", store.database.keys.completed, 1, job.id)
    history = History(store.database, retention=Retention())
    assert history.remove_completed(store.jobs, store.clock.ms) == 1
    left = store.jobs.get(f"{1:012x}")
    assert (left.state, store.jobs.count()) == (JobState.COMPLETED, 1)


def test_acknowledging_a_loss_ends_it_permanently(store: Store, tmp_path: Path) -> None:
    incidents, watch = Incidents(store.database), _watch(store, tmp_path)
    for _ in range(2):
        store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    watch.begin(store.clock.ms)
    _without_memory(store)
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    watch.begin(store.clock.ms)
    (gone,) = incidents.open()
    assert f"incidents ack {gone.id}`" in gone.text
    assert incidents.ack(gone.id, now_ms=store.clock.ms) == "ok"
    store.clock.advance(61)
    watch.step(store.clock.ms)
    assert incidents.open() == []
    assert LossNote(tmp_path, store.database).missing() is None


@pytest.mark.parametrize("bad", [b"\xff", b"", b"no mark"])
@pytest.mark.parametrize("place", ["mark", "copy", "both"])
def test_an_invalid_mark_is_restored_and_is_not_a_loss(
    valkey: Database, tmp_path: Path, place: str, bad: bytes
) -> None:
    database, store = valkey, Store(valkey, HandClock())
    keys, watch = database.keys, _watch(store, tmp_path)
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    watch.begin(store.clock.ms)
    mark = database.call("GET", keys.mark)
    if place != "copy":
        database.call("SET", keys.mark, bad)
    if place != "mark":
        database.call("HSET", keys.sweep, "mark", bad)
    assert LossNote(tmp_path, database).missing() is None
    watch.begin(store.clock.ms)
    assert database.call("GET", keys.mark) == mark
    assert database.call("HGET", keys.sweep, "mark") == mark
    assert Incidents(database).open() == []


def test_an_invalid_mark_in_a_note_is_not_written_to_the_server(
    store: Store, tmp_path: Path
) -> None:
    database, watch = store.database, _watch(store, tmp_path)
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    watch.begin(store.clock.ms)
    (note,) = tmp_path.glob("seen-*.json")
    note.write_text('{"server": "x", "mark": "no mark", "jobs": 0, "at_ms": 1}')
    database.call("DEL", database.keys.mark, database.keys.sweep)
    watch.begin(store.clock.ms)
    assert re.fullmatch("[0-9a-f]{16}", database.call("GET", database.keys.mark))


def test_a_disk_that_refuses_the_note_is_logged_once_a_minute(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "state"
    place.write_text("a file where a directory should be")
    store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    note = LossNote(place, store.database)
    for _ in range(3):
        note.write()
    (line,) = [line for line in caplog.messages if line.startswith("loss.not_noted")]
    assert str(place) in line
    assert "Error" in line
