"""Tests that no script fails halfway on corrupt keys, and that corruption harms no other job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from hermes_celery.core.job import JobRequest
from hermes_celery.core.output import PrintedPiece
from hermes_celery.store import connect, lua
from hermes_celery.store.keys import Keys
from hermes_celery.store.lua import source
from tests.store.corruption import (
    Call,
    RecordingDatabase,
    answer_of,
    recorded_calls,
    restore,
    spoilt,
    state_of,
)
from tests.support import HandClock, Store

#: Scripts that are tested elsewhere.
_OTHERS = {
    # These examine corrupt keys (tests/store/test_repairs.py).
    "read_job_facts", "read_key_facts", "read_run_facts", "mend", "read_specs", "refill",
    "refill_managed",
    # These repair their keys (tests/store/test_lease.py, test_shards.py).
    "join_beats", "lease_take", "lease_renew", "lease_release",
}  # fmt: skip


@pytest.fixture
def recording(valkey_url: str, namespace: str) -> Iterator[RecordingDatabase]:
    database = RecordingDatabase(connect(valkey_url), keys=Keys(namespace=namespace))
    yield database
    restore(database, {})
    database.close()


def cases(
    database: RecordingDatabase, calls: list[Call], *, each: bool
) -> Iterator[tuple[Call, str, str]]:
    """Yield each call with each of its keys corrupted; the server holds that state meanwhile.

    With `each` every corruption is used, else one of each sort for each script and key.
    """
    seen = set()
    for call in (call for call in calls if call.script not in _OTHERS):
        for key in dict.fromkeys(call.keys):
            restore(database, call.before)
            for name, commands in list(spoilt(database, key)):
                sort = (call.script, call.keys.index(key), name.partition("=")[0].split(" ")[0])
                if each or sort not in seen:
                    seen.add(sort)
                    restore(database, call.before)
                    database.call_many(commands)
                    yield call, key, name


def judge(database: RecordingDatabase, call: Call, key: str, name: str) -> str:
    """Repeat the call; return `broken` or `other`.

    The script must not fail, and `broken` must mean that nothing changed.
    """
    before = state_of(database)
    try:
        answer = answer_of(database, call)
    except redis.ResponseError as error:
        raise AssertionError((call.script, key, name, str(error)[:200])) from None
    assert state_of(database) == before or not is_broken(answer), (call.script, key, name, answer)
    return "broken" if is_broken(answer) else "other"


def is_broken(answer: Any) -> bool:
    return isinstance(answer, list) and len(answer) == 3 and answer[0] == "broken"


def test_no_script_fails_halfway_on_one_corruption_of_each_sort(
    recording: RecordingDatabase, clock: HandClock
) -> None:
    calls = recorded_calls(recording, clock)
    words = [judge(recording, *case) for case in cases(recording, calls, each=False)]
    assert words.count("broken") > 200


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_script_fails_halfway_on_any_corruption(
    recording: RecordingDatabase, clock: HandClock
) -> None:
    calls = recorded_calls(recording, clock)
    words = [judge(recording, *case) for case in cases(recording, calls, each=True)]
    assert words.count("broken") > 1000


def test_every_writing_script_is_among_the_recorded_calls(
    recording: RecordingDatabase, clock: HandClock
) -> None:
    """Scripts for leases and repairs have tests of their own."""
    called = {call.script for call in recorded_calls(recording, clock)}
    assert called >= {
        "advance", "bury_letter", "cancel", "claim", "defer", "enter_group", "fault", "finish",
        "forget", "heartbeat", "lose", "move_job", "move_runs", "put_back", "put_job", "redeliver",
        "remove_job",
        "spend", "switch", "trigger",
        "deliver_again", "deliver_begin", "deliver_claim", "deliver_done", "deliver_notice",
        "deliver_plan", "deliver_push", "incident_ack", "incident_close", "incident_note",
    }  # fmt: skip


def test_a_broken_step_does_not_affect_the_other_steps_of_its_batch(
    recording: RecordingDatabase, clock: HandClock
) -> None:
    """Each key of one job of a batch is corrupted; the other jobs are dispatched as before."""
    calls = recorded_calls(recording, clock)
    batch = max((c for c in calls if c.script == "advance"), key=lambda call: len(call.keys))
    restore(recording, batch.before)
    well = answer_of(recording, batch)
    assert set(well) <= {"ok", "held"}
    first = own_keys(batch, batch.keys[-4])
    broken = 0
    for key in first:
        restore(recording, batch.before)
        for name, commands in list(spoilt(recording, key)):
            restore(recording, batch.before)
            recording.call_many(commands)
            answers = answer_of(recording, batch)
            # Steps of other jobs answer as before.
            for step, (before, after) in enumerate(zip(well, answers, strict=True)):
                if key not in step_keys(batch)[step]:
                    assert after == before, (key, name, step)
                elif is_broken(after):
                    broken += 1
                    assert after[1] == key, (key, name)
    assert broken > 10


def step_keys(call: Call) -> list[tuple[str, ...]]:
    """Return the keys of each step of a call of `advance`."""
    head, found = 7 + int(call.args[4]), []
    for step in range(int(call.args[3])):
        choices = str(call.args[5 + step * 7 + 6])
        size = 4 if '"held"' in choices else 3
        found.append(call.keys[head : head + size])
        head += size
    return found


def own_keys(call: Call, key: str) -> tuple[str, ...]:
    """Return the keys of the step that a key belongs to."""
    return next(keys for keys in step_keys(call) if key in keys)


def test_a_broken_run_does_not_stop_the_heartbeats_of_others(store: Store) -> None:
    database, keys = store.database, store.database.keys
    database.call("SET", keys.term, 1)
    claims = []
    for name in ("one", "other"):
        job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", name=name))
        claims.append(store.claim(store.cron.run(job.id), token=name))
    tokens = {claim.run_id: claim.token for claim in claims}
    printed = {claim.run_id: PrintedPiece(stdout=b"out") for claim in claims}
    for key in (keys.run, keys.output, keys.group):
        mine = key(claims[0].run_id if key != keys.group else claims[0].group)
        before = database.client.dump(mine)
        database.call_many([("DEL", mine), ("RPUSH", mine, "x")])
        answers = store.runs.heartbeat(tokens, now_ms=store.clock.ms, printed=printed)
        assert list(answers.values()) == ["broken", "ok"], mine
        database.call("DEL", mine)
        if before is not None:
            database.client.restore(mine, 0, before)
    assert list(store.runs.heartbeat(tokens, now_ms=store.clock.ms).values()) == ["ok", "ok"]
    assert store.runs.output(claims[1].run_id) == b"out" * 3


def test_every_writing_script_includes_the_checks_of_broken_keys() -> None:
    """A script that does not include the checks cannot answer `broken`."""
    for path in Path(lua.__file__).parent.glob("[!_]*.lua"):
        if path.stem not in _OTHERS:
            assert "'broken'" in source(path.stem), path.name
