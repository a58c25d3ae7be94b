"""A start waits for its server as Celery's settings say, and reports that it waits."""

from __future__ import annotations

import pytest
from celery import Celery

from hermes_celery.celery_app.startup import patience_seconds, until_it_answers
from hermes_celery.errors import StoreUnavailable, StoreUnsuitable


@pytest.mark.parametrize(
    ("conf", "seconds"),
    [
        ({}, 15 * 16 + 85 * 30),
        ({"broker_connection_retry_on_startup": False}, 0),
        ({"broker_connection_retry": False}, 0),
        ({"broker_connection_retry": False, "broker_connection_retry_on_startup": True},
         15 * 16 + 85 * 30),
        ({"broker_connection_max_retries": 3}, 2 + 4 + 6),
        ({"broker_connection_max_retries": None}, float("inf")),
        ({"broker_connection_max_retries": 0}, float("inf")),
    ],
)  # fmt: skip
def test_celerys_settings_decide_how_long_a_start_waits(
    conf: dict[str, object], seconds: float
) -> None:
    app = Celery("shop", set_as_current=False)
    app.conf.update(conf)
    assert patience_seconds(app) == seconds


def test_a_start_polls_until_the_server_answers_and_reports_once() -> None:
    answers: list[Exception | None] = [StoreUnavailable("no Redis"), StoreUnavailable("no"), None]
    said: list[str] = []

    def look() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    until_it_answers(look, seconds=60, say=said.append, pause=lambda _: None)
    waiting, over = said
    assert waiting.startswith("Waiting: no Redis. ")
    assert waiting.endswith("(broker_connection_retry_on_startup)")
    assert over == "The server answers; continuing"


def test_an_unsuitable_server_is_raised_at_once() -> None:
    def look() -> None:
        raise StoreUnsuitable("too old")

    with pytest.raises(StoreUnsuitable):
        until_it_answers(look, seconds=60, say=lambda _: None, pause=lambda _: None)
