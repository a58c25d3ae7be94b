"""Tests that a purge records each purged message, even beyond the size of the write queue."""

from __future__ import annotations

import json
import logging
import multiprocessing

import pytest
from celery import Celery

from hermes_celery.celery_app import purging
from hermes_celery.celery_app.messages import DELIVER_TASK
from hermes_celery.errors import StoreUnavailable
from hermes_celery.running.background_writes import BackgroundWrites
from hermes_celery.running.ended_by_celery import RunEnder
from hermes_celery.settings import read_settings
from hermes_celery.store import Database, Runs
from hermes_celery.wiring.own_app import make_app
from tests.support import HandClock

pytestmark = pytest.mark.system

_MESSAGES, _ROOM = 2_000, 600


class CountingDeliveries:
    """Records in the store that a delivery was given up."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def give_up(self, delivery_id: str, why: str) -> None:
        self._database.call("SADD", "{any}:purged", delivery_id)


class UnavailableDeliveries:
    """Raises StoreUnavailable for every write."""

    def give_up(self, delivery_id: str, why: str) -> None:
        raise StoreUnavailable("away")


def purge(
    environment: dict[str, str],
    valkey: Database,
    ends: CountingDeliveries | UnavailableDeliveries,
    writes: BackgroundWrites,
) -> None:
    run_ender = RunEnder(Runs(valkey), deliveries=lambda: ends, writes=writes, clock=HandClock())
    broker = make_app(read_settings(environment)).conf.broker_url
    app = Celery("project", broker=broker, set_as_current=False)
    purging.watch(app, lambda: run_ender)
    queue = valkey.keys.default_queue
    messages = [
        json.dumps({"headers": {"id": f"deliver-{number}", "task": DELIVER_TASK}, "body": ""})
        for number in range(_MESSAGES)
    ]
    valkey.client.rpush(queue, *messages)
    with app.connection_for_write() as connection:
        assert connection.default_channel.queue_purge(queue) == _MESSAGES


def test_each_message_of_a_large_purge_is_recorded(
    environment: dict[str, str], valkey: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="hermes_celery"):
        purge(environment, valkey, CountingDeliveries(valkey), BackgroundWrites(most=_ROOM))
    try:
        assert valkey.call("SCARD", "{any}:purged") == _MESSAGES
    finally:
        valkey.call("DEL", "{any}:purged")
    assert caplog.messages == []


def test_a_purge_that_could_not_be_recorded_is_logged(
    environment: dict[str, str], valkey: Database, caplog: pytest.LogCaptureFixture
) -> None:
    writes = BackgroundWrites(pause=lambda seconds: None, patience_seconds=0.0)
    with caplog.at_level(logging.ERROR, logger="hermes_celery"):
        purge(environment, valkey, UnavailableDeliveries(), writes)
    assert [line for line in caplog.messages if line.startswith("purge.not_noted")]


def test_a_forked_process_records_its_purges_with_an_ender_of_its_own(
    environment: dict[str, str],
) -> None:
    app = make_app(read_settings(environment))
    run_ender_here = vars(app)[purging.RUN_ENDER]
    ours, context = run_ender_here(), multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(run_ender_here() is ours))
    child.start()
    child.join(20)
    assert (child.exitcode, answers.get(), run_ender_here() is ours) == (0, False, True)
