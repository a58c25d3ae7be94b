"""A worker whose run has keys that are not as they should be: mended, and tried again."""

from __future__ import annotations

import pytest

from hermes_celery.errors import RecordBroken
from hermes_celery.job import JobRequest, JobSpec
from hermes_celery.pulse import Pulse, RunningRun
from hermes_celery.run import Outcome, RunState
from hermes_celery.runner import Runner
from hermes_celery.session import Session
from hermes_celery.store import Places
from tests.support import Store


class Counting:
    """Work that counts how often it is done, and spoils a key meanwhile."""

    def __init__(self, store: Store, spoils: str = "") -> None:
        self.done = 0
        self._store = store
        self._spoils = spoils

    def perform(self, spec: JobSpec, session: Session, stop: RunningRun) -> Outcome:
        self.done += 1
        if self._spoils:
            self._store.database.call("SET", self._spoils, "x")
        return Outcome(state=RunState.SUCCEEDED, output=b"done")


def runner(store: Store, work: Counting, *, mends: bool) -> Runner:
    def mend(job_id: str, error: RecordBroken) -> None:
        if mends:
            store.database.call("DEL", error.key)

    return Runner(
        store.runs,
        pulse=Pulse(store.runs, clock=store.clock),
        work_for=lambda _: work,
        clock=store.clock,
        places=Places(store.database),
        mend=mend,
        pause=lambda seconds: store.clock.advance(seconds),
    )


def queued(store: Store, **fields: int | str) -> str:
    job = store.cron.add(JobRequest(schedule="every 1h", prompt="x", **fields))  # type: ignore[arg-type]
    return store.cron.run(job.id)


def perform(store: Store, work: Counting, run_id: str, *, mends: bool = True) -> str:
    return runner(store, work, mends=mends).perform(run_id, session=Session(), worker="w")


@pytest.mark.parametrize("spoilt", ["heartbeats", "active", "group"])
def test_what_hinders_the_start_is_mended_and_the_run_starts(store: Store, spoilt: str) -> None:
    run_id, keys = queued(store, group="g", group_limit=1), store.database.keys
    names = {"heartbeats": keys.heartbeats, "active": keys.active(run_id[:12]),
             "group": keys.group("g")}  # fmt: skip
    store.database.call_many([("DEL", names[spoilt]), ("SET", names[spoilt], "x")])
    work = Counting(store)
    assert perform(store, work, run_id) == "succeeded"
    assert work.done == 1
    assert store.runs.get(run_id).state is RunState.SUCCEEDED


def test_what_cannot_be_mended_leaves_the_run_queued(store: Store) -> None:
    run_id = queued(store)
    store.database.call_many(
        [("DEL", key := store.database.keys.active(run_id[:12])), ("SET", key, "x")]
    )
    work = Counting(store)
    with pytest.raises(RecordBroken):
        perform(store, work, run_id, mends=False)
    assert work.done == 0
    assert store.runs.get(run_id).state is RunState.QUEUED


def test_a_result_is_offered_until_what_hinders_it_is_mended(store: Store) -> None:
    run_id = queued(store)
    work = Counting(store, spoils=store.database.keys.active(run_id[:12]))
    assert perform(store, work, run_id) == "succeeded"
    assert work.done == 1
    assert store.runs.output(run_id) == b"done"


def test_a_run_whose_job_cannot_be_read_fails_with_that_reason(store: Store) -> None:
    run_id = queued(store)
    store.database.call("HSET", store.database.keys.job(run_id[:12]), "spec", "{not json")
    work = Counting(store)
    assert perform(store, work, run_id) == "failed"
    run = store.runs.get(run_id)
    assert (work.done, run.state) == (0, RunState.FAILED)
    assert "cannot be read" in (run.error or "")
