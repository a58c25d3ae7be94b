"""Tests that a message that kombu cannot decode ends neither a consumer nor a purge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from celery import Celery
from kombu.entity import Exchange, Queue

from hermes_celery.celery_app import purging, safe_consumer
from hermes_celery.celery_app.messages import DELIVER_TASK
from hermes_celery.celery_app.safe_consumer import DeadLetters
from hermes_celery.running.background_writes import BackgroundWrites
from hermes_celery.running.ended_by_celery import RunEnder
from hermes_celery.settings import read_settings
from hermes_celery.store import Database, Letters, Runs
from hermes_celery.wiring.own_app import make_app
from tests.bad_messages import corpus, good
from tests.support import HandClock, eventually

_TYPED = (
    "a type that kombu does not know",
    "an invalid date",
    "an invalid decimal",
    "bytes that are a number",
)


@pytest.fixture
def project(valkey_url: str, namespace: str) -> Celery:
    """Return a project's own app on the real server, with queues of this test."""
    environment = {"HERMES_REDIS_URL": valkey_url, "HERMES_CELERY_NAMESPACE": namespace}
    broker = make_app(read_settings(environment)).conf.broker_url
    app = Celery("project", broker=broker, set_as_current=False)
    app.conf.task_default_queue = namespace
    return app


@pytest.fixture
def connection(project: Celery, valkey: Database) -> Iterator[Any]:
    """Yield a connection with the safe consumer."""
    dead_letters = DeadLetters(
        Letters(valkey), clock=HandClock(), worker="w", handed_on_failed=lambda run_id, error: None
    )
    safe_consumer.install(project, dead_letters)
    with project.amqp.Connection(project.conf.broker_url) as made:
        yield made


def after_draining(connection: Any, taken: list[Any]) -> list[Any]:
    """Drain the connection for a moment and return the taken messages."""
    with suppress(TimeoutError):
        connection.drain_events(timeout=0.1)
    return taken


@pytest.mark.parametrize("name", _TYPED)
def test_an_undecodable_message_is_kept_and_the_next_one_is_taken(
    project: Celery, connection: Any, valkey: Database, name: str
) -> None:
    queue, taken = project.conf.task_default_queue, list[Any]()
    valkey.client.lpush(queue, corpus()[name], json.dumps(good(message_id="next")))
    channel = connection.default_channel
    consumer = connection.Consumer(
        project.amqp.queues[queue](channel), channel=channel, on_message=taken.append
    )
    with consumer:
        eventually(lambda: after_draining(connection, taken), what="the next message")
    (kept,) = Letters(valkey).latest()
    assert (kept.queue, kept.raw()) == (queue, corpus()[name])


@pytest.mark.parametrize("name", _TYPED)
def test_an_undecodable_broadcast_is_skipped_and_the_next_one_is_received(
    connection: Any, valkey: Database, namespace: str, name: str
) -> None:
    received: list[Any] = []
    channel = connection.default_channel
    box = Queue(f"{namespace}.box", Exchange(f"{namespace}.all", type="fanout"))
    topic = channel._get_publish_topic(box.exchange.name, "")

    def is_heard(raw: bytes) -> bool:
        after_draining(connection, received)
        return bool(valkey.client.publish(topic, raw))

    with connection.Consumer(box(channel), channel=channel, on_message=received.append):
        eventually(lambda: is_heard(corpus()[name]), seconds=10, what="the subscription")
        assert is_heard(json.dumps(good()).encode())
        eventually(
            lambda: after_draining(connection, received), seconds=10, what="the next broadcast"
        )


class Counting:
    """Notes which deliveries were given up."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def give_up(self, delivery_id: str, why: str) -> None:
        self.ended.append(delivery_id)


def test_a_purge_reports_all_decodable_messages_beside_undecodable_ones(
    project: Celery, valkey: Database
) -> None:
    given_up = Counting()
    run_ender = RunEnder(
        Runs(valkey), deliveries=lambda: given_up, writes=BackgroundWrites(), clock=HandClock()
    )
    purging.watch(project, lambda: run_ender)
    queue = project.conf.task_default_queue
    for number, name in enumerate(_TYPED):
        message = {"headers": {"id": f"deliver-{number}", "task": DELIVER_TASK}, "body": ""}
        valkey.client.lpush(queue, corpus()[name], json.dumps(message))
    with project.connection_for_write() as connection:
        assert connection.default_channel.queue_purge(queue) == 2 * len(_TYPED)
    assert len(given_up.ended) == len(_TYPED)
