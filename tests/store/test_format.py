"""Tests of the stored format: what is reported, what is refused, and migration while running."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from hermes_celery.core.incidents import Trouble, TroubleKind
from hermes_celery.core.job import JobRequest, JobState
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.errors import (
    FormatTooNew,
    LeaseLost,
    RecordBroken,
)
from hermes_celery.scheduling.tick import Ticker
from hermes_celery.store import FORMAT, Database, Deliveries, Formats, Incidents, Migrator
from hermes_celery.store.format import StoredFormat
from hermes_celery.store.job_records import NewerRecord
from hermes_celery.store.migrating import MIGRATIONS, Migration
from hermes_celery.store.program_signs import ProgramSign
from tests.support import HandClock, Store

TOKEN = 7


@pytest.fixture
def formats(database: Database) -> Formats:
    database.call("SET", database.keys.term, TOKEN)
    return Formats(database)


def put(database: Database, **fields: object) -> None:
    """Store a format as another program would."""
    database.call("SET", database.keys.format, msgspec.json.encode(fields))


def migrated(database: Database, *, now_ms: int = 0) -> StoredFormat:
    """Migrate to the end and return the stored format."""
    migrator = Migrator(database)
    while migrator.step(token=TOKEN, now_ms=now_ms):
        pass
    return Formats(database).read()


def test_a_namespace_of_0_1_0_has_no_format_and_counts_as_format_1(formats: Formats) -> None:
    assert formats.read() == StoredFormat(format=1, needs=1)
    assert formats.require().to is None


def test_a_leader_notes_its_format_and_0_1_0_may_still_read(
    formats: Formats, database: Database
) -> None:
    stored = migrated(database)
    assert (stored.format, stored.needs, stored.to) == (FORMAT, 1, None)
    assert stored.program
    before = database.call("GET", database.keys.format)
    assert not Migrator(database).step(token=TOKEN, now_ms=0)
    assert database.call("GET", database.keys.format) == before


def test_there_is_a_migration_to_each_format() -> None:
    assert [migration.to for migration in MIGRATIONS] == list(range(2, FORMAT + 1))


def test_a_format_that_needs_a_newer_program_is_refused_with_a_hint_to_upgrade(
    formats: Formats, database: Database
) -> None:
    put(database, format=9, needs=FORMAT + 1, program="9.1.0", colour="of a later version")
    with pytest.raises(FormatTooNew) as error:
        formats.require()
    text = str(error.value)
    assert f"needs a program that reads format {FORMAT + 1}" in text
    assert "hermes-celery 9.1.0" in text
    assert text.endswith("upgrade hermes-celery on this machine")


def test_a_newer_format_that_is_still_readable_is_not_changed(
    formats: Formats, database: Database
) -> None:
    put(database, format=9, needs=FORMAT)
    assert formats.require().format == 9
    assert not Migrator(database).step(token=TOKEN, now_ms=0)
    assert formats.read().format == 9


@pytest.mark.parametrize(
    "text",
    [b"x", b"", b"[]", b"7", b'{"format": "2"}', b'{"format": 0}', b'{"needs": -3}', b"\xff\xfe"],
)
def test_garbage_is_reported_and_quarantined_by_the_leader(
    formats: Formats, database: Database, text: bytes
) -> None:
    key = database.keys.format
    database.call("SET", key, text)
    if text:
        with pytest.raises(RecordBroken) as error:
            formats.require()
        assert error.value.key == key
    assert migrated(database, now_ms=5).format == FORMAT
    assert (database.raw("GET", database.keys.quarantine(key, at_ms=5)) or b"") == text


@pytest.mark.parametrize(
    "command", [("RPUSH", "x"), ("HSET", "a", "b"), ("SADD", "x"), ("ZADD", 1, "x")]
)
def test_a_key_of_the_wrong_type_is_reported_and_quarantined_by_the_leader(
    formats: Formats, database: Database, command: tuple[str | int, ...]
) -> None:
    key = database.keys.format
    name, *rest = command
    database.call(name, key, *rest)
    with pytest.raises(RecordBroken, match="not a string"):
        formats.require()
    kind = database.call("TYPE", key)
    assert migrated(database, now_ms=5).format == FORMAT
    assert database.call("TYPE", database.keys.quarantine(key, at_ms=5)) == kind


def test_a_migration_is_logged_only_where_records_change(
    formats: Formats, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert formats.read().format == 1
    migrated(database)
    assert "format.migrated" not in caplog.text
    planned = [Migration(to=FORMAT + 1, needs=1, step=Doubling().step)]
    while Migrator(database, migrations=planned).step(token=TOKEN, now_ms=0):
        pass
    assert caplog.text.count("format.migrated") == 1


def test_an_older_leader_migrates_nothing(formats: Formats, database: Database) -> None:
    with pytest.raises(LeaseLost):
        Migrator(database).step(token=TOKEN - 1, now_ms=0)
    assert formats.read() == StoredFormat()


def test_an_invalid_term_is_reported_and_nothing_is_migrated(
    formats: Formats, database: Database
) -> None:
    database.call("DEL", database.keys.term)
    database.call("RPUSH", database.keys.term, "x")
    with pytest.raises(RecordBroken) as error:
        Migrator(database).step(token=TOKEN, now_ms=0)
    assert error.value.key == database.keys.term
    assert formats.read() == StoredFormat()


def test_two_leaders_do_not_overwrite_each_others_format(
    formats: Formats, database: Database
) -> None:
    seen = formats.read()
    put(database, format=9, needs=1)
    assert not formats.write(StoredFormat(format=2), seen=seen, token=TOKEN, now_ms=0)
    assert formats.read().format == 9


class Doubling:
    """A migration of three hashes, one by one; it notes the hashes that it changed."""

    def __init__(self) -> None:
        self.changed: list[str] = []

    def step(self, database: Database, cursor: str) -> str | None:
        number = int(cursor or 0)
        key = f"{database.keys.prefix}thing:{number}"
        if number == 3:
            return None
        database.call("HSET", key, "shape", "new")
        self.changed.append(key)
        return str(number + 1)


def test_a_migration_continues_where_the_previous_leader_stopped(
    formats: Formats, database: Database
) -> None:
    migrated(database)
    doubling = Doubling()
    planned = [*MIGRATIONS, Migration(to=FORMAT + 1, needs=1, step=doubling.step)]
    for step in range(3):
        # Each step has a new leader: nothing is kept in memory.
        assert Migrator(database, migrations=planned).step(token=TOKEN, now_ms=0)
        stored = formats.read()
        assert (stored.format, stored.to, stored.cursor) == (FORMAT, FORMAT + 1, str(step + 1))
    assert Migrator(database, migrations=planned).step(token=TOKEN, now_ms=0)
    assert formats.read().format == FORMAT + 1
    assert formats.read().to is None
    assert len(doubling.changed) == len(set(doubling.changed)) == 3


def test_a_migration_step_killed_before_its_note_is_done_again(
    formats: Formats, database: Database
) -> None:
    migrated(database)
    doubling = Doubling()
    planned = [*MIGRATIONS, Migration(to=FORMAT + 1, needs=1, step=doubling.step)]
    with pytest.raises(LeaseLost):
        Migrator(database, migrations=planned).step(token=TOKEN - 1, now_ms=0)
    while Migrator(database, migrations=planned).step(token=TOKEN, now_ms=0):
        pass
    assert doubling.changed[0] == doubling.changed[1]
    assert len(set(doubling.changed)) == 3
    assert formats.read().format == FORMAT + 1


def test_a_migration_that_older_programs_cannot_read_waits_until_they_are_gone(
    formats: Formats, database: Database, clock: HandClock
) -> None:
    migrated(database)
    doubling = Doubling()
    planned = [*MIGRATIONS, Migration(to=FORMAT + 1, needs=FORMAT + 1, step=doubling.step)]
    migrator = Migrator(database, migrations=planned)
    database.call("ZADD", database.keys.workers, clock.ms, "celery@old:1")
    assert not migrator.step(token=TOKEN, now_ms=clock.ms)
    clock.advance(12)
    assert not migrator.step(token=TOKEN, now_ms=clock.ms), (
        "not seen any more, but for too short a time"
    )
    clock.advance(4)
    assert migrator.step(token=TOKEN, now_ms=clock.ms)
    assert formats.read().needs == FORMAT + 1, "must be written before the first record is changed"
    assert doubling.changed == []
    while migrator.step(token=TOKEN, now_ms=clock.ms):
        pass
    assert len(doubling.changed) == 3
    assert (formats.read().format, formats.read().needs) == (FORMAT + 1, FORMAT + 1)
    assert formats.read().to is None


def test_workers_and_beats_of_0_1_0_are_known_by_their_missing_signs(
    valkey: Database, clock: HandClock
) -> None:
    formats, keys = Formats(valkey), valkey.keys
    for name in ("celery@old:1", "celery@new:2", "celery@gone:3"):
        valkey.call("ZADD", keys.workers, clock.ms, name)
    valkey.call("ZADD", keys.workers, clock.ms - 60_000, "celery@gone:3")
    formats.say_here("worker celery@new:2", now_ms=clock.ms)
    formats.say_here("beat new:3", now_ms=clock.ms)
    # Both beats wait for wake-up calls; one of them has announced its format.
    subscriptions = [valkey.client.pubsub() for _ in range(2)]
    for subscription in subscriptions:
        subscription.subscribe(keys.wake)
        subscription.get_message(timeout=5)
    assert formats.older_than(FORMAT, now_ms=clock.ms) == ["a beat", "worker celery@old:1"]
    assert formats.older_than(1, now_ms=clock.ms) == []
    subscriptions[0].close()
    valkey.call("ZREM", keys.workers, "celery@old:1")
    assert formats.older_than(FORMAT + 1, now_ms=clock.ms) == ["beat new:3", "worker celery@new:2"]
    formats.say_gone("beat new:3")
    subscriptions[1].close()
    assert formats.older_than(FORMAT + 1, now_ms=clock.ms) == ["worker celery@new:2"]
    assert formats.older_than(FORMAT + 1, now_ms=clock.ms + 10_001) == []


def test_a_stopping_worker_counts_until_its_last_run_has_ended(store: Store) -> None:
    formats = Formats(store.database)
    store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="n"))
    claim = store.claim(store.cron.run("n"))
    assert formats.older_than(FORMAT, now_ms=store.clock.ms) == ["worker w@host"]
    outcome = Outcome(state=RunState.SUCCEEDED)
    store.runs.finish(claim, outcome, now_ms=store.clock.ms)
    assert formats.older_than(FORMAT, now_ms=store.clock.ms) == []


def sign(database: Database, clock: HandClock, stopped: list[str]) -> ProgramSign:
    return ProgramSign(
        Formats(database),
        name="beat b",
        clock=clock,
        stop_program=lambda: stopped.append("stop"),
    )


def test_a_program_that_has_become_too_old_stops_itself(
    database: Database, clock: HandClock
) -> None:
    stopped: list[str] = []
    one = sign(database, clock, stopped)
    one.say()
    assert stopped == []
    put(database, format=9, needs=9)
    one.say()
    assert stopped == ["stop"]


def test_neither_garbage_nor_a_key_of_the_wrong_type_stops_a_program(
    database: Database, clock: HandClock
) -> None:
    stopped: list[str] = []
    one = sign(database, clock, stopped)
    for key in (database.keys.format, database.keys.programs):
        database.call("DEL", key)
        database.call("HSET", key, "a", "b")
        one.say()
        database.call("DEL", key)
        database.call("SET", key, "garbage")
        one.say()
    assert stopped == []


def needing(store: Store, job_id: str, needs: int) -> None:
    """Rewrite a job's spec as a newer program would."""
    key = store.database.keys.job(job_id)
    spec = msgspec.json.decode(store.database.call("HGET", key, "spec"))
    spec |= {"needs": needs, "prompt": {"another": "shape"}}
    store.database.call("HSET", key, "spec", msgspec.json.encode(spec))


def test_a_job_that_needs_a_newer_program_is_left_unchanged_with_a_reason(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="newer"))
    other = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name="other"))
    needing(store, job.id, FORMAT + 1)
    before = store.database.hashes([store.database.keys.job(job.id)])
    for verb in (store.cron.show, store.cron.pause, store.cron.run):
        with pytest.raises(NewerRecord, match=f"format {FORMAT + 1}: upgrade hermes-celery"):
            verb(job.id)
    store.clock.advance(3600)
    store.database.call("SET", store.database.keys.term, TOKEN)
    report = Ticker(store.due, store.messages).tick(token=TOKEN, now_ms=store.clock.ms)
    assert (report.dispatched, report.broken) == (1, 1)
    assert store.database.hashes([store.database.keys.job(job.id)]) == before
    assert store.cron.show(other.id).state is JobState.SCHEDULED


def test_a_run_of_a_job_that_needs_a_newer_program_waits_for_a_newer_worker(store: Store) -> None:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    run_id = store.cron.run(job.id)
    spec = store.database.call("HGET", store.database.keys.job(job.id), "spec")
    needing(store, job.id, FORMAT + 1)
    answer = store.runs.claim(run_id, token="t", now_ms=store.clock.ms, worker="w")
    assert answer == "newer"
    run = store.runs.get(run_id)
    assert (run.state, run.attempt, run.worker) == (RunState.QUEUED, 1, None)
    # The newer worker can claim it.
    store.database.call("HSET", store.database.keys.job(job.id), "spec", spec)
    assert store.claim(run_id).attempt == 1


def test_runs_incidents_and_deliveries_name_the_format_that_they_need(store: Store) -> None:
    database, keys = store.database, store.database.keys
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x"))
    run_id = store.cron.run(job.id)
    noted = Incidents(database).report(
        Trouble.of_job(job.spec, TroubleKind.FAILURE, "text"), now_ms=store.clock.ms
    )

    def delivery() -> str | None:
        try:
            Deliveries(database).get(run_id)
        except RecordBroken as error:
            return error.what
        return None

    readers: dict[str, Callable[[], str | None]] = {
        keys.run(run_id): lambda: store.runs.get(run_id).fault,
        keys.incident(noted.id): lambda: Incidents(database).open()[0].fault,
        keys.delivery(run_id): delivery,
    }
    for key, fault in readers.items():
        for fine in ("1", str(FORMAT), "garbage", "9" * 5000):
            database.call("HSET", key, "needs", fine)
            assert not fault(), (key, fine)
        database.call("HSET", key, "needs", FORMAT + 1)
        expected = f"needs a program that reads format {FORMAT + 1}: upgrade hermes-celery"
        assert (fault() or "").startswith(expected), key
