"""Tests of dead letters: a limited number is kept.

The third unreadable message of a waiting run fails that run.
"""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from hermes_celery.cli import main
from hermes_celery.core.dead_letters import KEPT, KEPT_BYTES, DeadLetter, letter
from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import DeliveryState, RunState
from hermes_celery.errors import RecordBroken
from hermes_celery.scheduling.run_rescue import Rescuer
from hermes_celery.store import Claim, Database, Letters
from tests.support import Store, a_spec


@pytest.fixture
def letters(store: Store) -> Letters:
    return Letters(store.database)


def dead(store: Store, raw: bytes = b"junk", *, why: str = "it is no JSON") -> DeadLetter:
    return letter(raw, queue="q", why=why, worker="w@host", at_ms=store.clock.ms)


def message_of(run_id: str) -> bytes:
    return json.dumps({"headers": {"id": run_id}, "properties": 5}).encode()


def test_the_newest_thousand_are_kept_and_all_are_counted(store: Store, letters: Letters) -> None:
    for number in range(KEPT + 5):
        assert letters.bury(dead(store, b"%d" % number)) is None
    kept = letters.latest()
    assert (len(kept), letters.total()) == (KEPT, KEPT + 5)
    assert (kept[0].raw(), kept[-1].raw()) == (b"%d" % (KEPT + 4), b"5")
    assert letters.clear() == KEPT
    assert (letters.latest(), letters.total()) == ([], KEPT + 5)


def test_a_counter_with_leading_zeros_is_continued(store: Store, letters: Letters) -> None:
    store.database.call("SET", store.database.keys.letters_total, "007")
    run_id = waiting_run(store)
    for _ in range(3):
        ended = letters.bury(dead(store, message_of(run_id)))
    assert (ended, letters.total()) == (run_id, 10)


def test_all_kept_letters_fit_into_eight_megabytes(store: Store) -> None:
    huge = letter(b"\xff" * 10_000_000, queue="q" * 10_000, why="y" * 10_000, worker="w", at_ms=1)
    assert (huge.size, len(huge.raw())) == (10_000_000, KEPT_BYTES)
    assert KEPT * len(json.dumps(huge.as_json())) < 8_000_000


def test_the_third_unreadable_message_of_a_waiting_run_ends_it_as_failed(
    store: Store, letters: Letters
) -> None:
    run_id = waiting_run(store)
    assert letters.bury(dead(store, message_of(run_id))) is None
    assert letters.bury(dead(store, message_of(run_id))) is None
    assert store.cron.runs.get(run_id).state is RunState.QUEUED
    assert letters.bury(dead(store, message_of(run_id))) == run_id
    run = store.cron.runs.get(run_id)
    assert (run.state, run.delivery) == (RunState.FAILED, DeliveryState.PENDING)
    assert run.error is not None
    assert run.error.startswith("workers could not read its message 3 times: it is no JSON")
    job = store.cron.show(run.job_id)
    assert (job.last_status, job.last_error) == ("error", run.error)
    assert store.database.call("ZSCORE", store.database.keys.queued, run_id) is None
    assert store.database.call("EXISTS", store.database.keys.active(run.job_id)) == 0
    assert store.runs.claim(run_id, token="t", now_ms=store.clock.ms, worker="w") == "taken"


def test_a_running_run_is_not_ended_by_unreadable_messages(store: Store, letters: Letters) -> None:
    run_id = waiting_run(store)
    assert isinstance(store.claim(run_id), Claim)
    for _ in range(5):
        assert letters.bury(dead(store, message_of(run_id))) is None
    assert store.cron.runs.get(run_id).state is RunState.RUNNING


def test_a_letter_with_an_unknown_run_id_creates_no_run(store: Store, letters: Letters) -> None:
    strange = "abcdefabcdef-20260622T120000Z"
    for _ in range(5):
        assert letters.bury(dead(store, message_of(strange))) is None
    assert store.database.call("EXISTS", store.database.keys.run(strange)) == 0
    assert letters.latest(limit=1)[0].run_id == strange


def test_a_run_with_one_unreadable_message_is_pushed_again(store: Store, letters: Letters) -> None:
    run_id = waiting_run(store)
    store.database.call("DEL", store.messages.queue(a_spec()))
    letters.bury(dead(store, message_of(run_id)))
    store.database.call("SET", store.database.keys.term, 1)
    store.clock.advance(61)
    Rescuer(store.jobs, store.runs, store.messages).rescue(token=1, now_ms=store.clock.ms)
    assert store.queue() == [run_id]
    store.claim(run_id)


def test_an_invalid_entry_does_not_hide_the_letters(store: Store, letters: Letters) -> None:
    letters.bury(dead(store, b"first"))
    store.database.call("LPUSH", store.database.keys.letters, "{not json", '{"queue": 5}')
    letters.bury(dead(store, b"second"))
    assert [one.raw() for one in letters.latest()] == [b"second", b"first"]


def test_a_counter_that_is_not_a_number_reads_as_zero_and_is_reported_on_writing(
    store: Store, letters: Letters
) -> None:
    store.database.call("SET", store.database.keys.letters_total, "many")
    assert letters.total() == 0
    with pytest.raises(RecordBroken, match="letters-total"):
        letters.bury(dead(store))


def test_the_letters_command_prints_no_control_character(
    valkey: Database, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_REDIS_URL", valkey_url)
    monkeypatch.setenv("HERMES_CELERY_NAMESPACE", valkey.keys.namespace)
    raw = b"\x1b]0;owned\x07\x9b31m\r\n" + "‮".encode()
    Letters(valkey).bury(
        letter(raw, queue="q\x1b[2J", why="\x1b[1mbold", worker="w", at_ms=valkey.now_ms())
    )
    shown = CliRunner().invoke(main, ["letters"])
    assert shown.exit_code == 0, shown.output
    assert "\\x1b]0;owned\\x07" in shown.stdout
    assert all(c == "\n" or c.isprintable() for c in shown.stdout)
    assert shown.stdout.isascii()
    (record,) = json.loads(CliRunner().invoke(main, ["letters", "--json"]).stdout)
    assert (record["size"], record["queue"]) == (len(raw), "q\x1b[2J")
    findings = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    (line,) = [row for row in findings if row["check"] == "letters"]
    assert line["verdict"] == "warn"
    assert "hermes-celery letters" in line["text"]
    assert CliRunner().invoke(main, ["letters", "clear"]).stdout == "1 letter deleted\n"
    assert CliRunner().invoke(main, ["letters"]).stdout == "no message was unreadable\n"


def waiting_run(store: Store) -> str:
    """Return the id of a run that waits for a worker."""
    return store.cron.run(store.cron.add(JobRequest(schedule="every 1h", prompt="p")).id)
