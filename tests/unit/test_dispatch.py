"""Our message is, field by field, what `apply_async` puts on the wire."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from kombu.connection import Connection

from hermes_celery.app import make_app
from hermes_celery.dispatch import RUN_TASK, Dispatch
from hermes_celery.job import Origin
from hermes_celery.session import session_of, to_header
from hermes_celery.settings import read_settings
from tests.support import a_spec

RUN_ID = "aaaaaaaaaaaa-20260622T120000Z"
AWKWARD = 'näh "quoted" \\ — 🜲 <b>'


@pytest.mark.parametrize("name", ["nightly", AWKWARD])
def test_a_message_is_what_apply_async_would_send(name: str) -> None:
    app = make_app(read_settings({}))
    spec = a_spec(name=name, origin=Origin(platform="telegram", chat_name=AWKWARD))
    ours = json.loads(Dispatch(app).message(spec, run_id=RUN_ID, due_ms=1))
    theirs = _sent(app, spec_name=name, header=to_header(session_of(spec, run_id=RUN_ID, due_ms=1)))
    assert json.loads(base64.b64decode(ours["body"])) == json.loads(
        base64.b64decode(theirs["body"])
    )
    for message in (ours, theirs):
        message.pop("body")
        assert message["properties"].pop("delivery_tag")
    assert ours == theirs


def test_every_message_has_a_tag_of_its_own() -> None:
    dispatch = Dispatch(make_app(read_settings({})))
    tags = {
        json.loads(dispatch.message(a_spec(), run_id=run_id, due_ms=1))["properties"][
            "delivery_tag"
        ]
        for run_id in ("r1", "r2", "r3")
    }
    assert len(tags) == 3


def _sent(app: Any, *, spec_name: str, header: dict[str, Any]) -> dict[str, Any]:
    with Connection("memory://") as connection:
        app.tasks[RUN_TASK].apply_async(
            args=(RUN_ID,),
            task_id=RUN_ID,
            shadow=spec_name,
            headers={"hermes": header},
            queue="hermes",
            connection=connection,
        )
        message: dict[str, Any] = connection.default_channel._get("hermes")
        return message
