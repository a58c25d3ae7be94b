"""Tests of waiting for a run and reading its output through the client."""

from __future__ import annotations

import threading

import pytest

from hermes_celery.core.job import JobRequest
from hermes_celery.core.run import Outcome, RunState
from hermes_celery.errors import RunNotFound
from tests.support import Store

_DONE = Outcome(state=RunState.SUCCEEDED, output="grün\n".encode() + b"\xff")


def test_wait_returns_the_ended_run_and_its_output_can_be_read(store: Store) -> None:
    run_id = store.cron.run(store.cron.add(JobRequest(schedule="every 1h", prompt="p")).id)
    claim = store.claim(run_id)
    later = threading.Timer(0.3, lambda: store.runs.finish(claim, _DONE, now_ms=store.clock.ms))
    later.start()

    assert store.cron.wait(run_id, seconds=40).state is RunState.SUCCEEDED
    later.join()
    assert store.cron.output(run_id) == "grün\n\N{REPLACEMENT CHARACTER}"


def test_wait_returns_an_unfinished_run_after_the_given_seconds(store: Store) -> None:
    run_id = store.cron.run(store.cron.add(JobRequest(schedule="every 1h", prompt="p")).id)

    assert store.cron.wait(run_id, seconds=0).state is RunState.QUEUED
    store.claim(run_id)
    assert store.cron.wait(run_id, seconds=0.2).state is RunState.RUNNING
    assert store.cron.output(run_id) == ""


@pytest.mark.parametrize("run_id", ["no run", "aaaaaaaaaaaa-20260622T120000Z"])
def test_an_unknown_run_raises_run_not_found(store: Store, run_id: str) -> None:
    for look in (
        store.cron.show_run,
        store.cron.output,
        lambda one: store.cron.wait(one, seconds=9),
    ):
        with pytest.raises(RunNotFound):
            look(run_id)
