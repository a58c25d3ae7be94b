"""A message equals, field by field, the message that `apply_async` would send."""

from __future__ import annotations

import base64
import json
from datetime import UTC, date, datetime
from typing import Any

import pytest
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.transport.redis import Channel
from kombu.utils.json import dumps

from hermes_celery.celery_app.messages import RUN_TASK
from hermes_celery.core.built_message import is_stand_in
from hermes_celery.core.job import JobSpec, Origin
from hermes_celery.core.task_call import checked_task
from hermes_celery.core.work import TaskCall
from hermes_celery.session import session_of, to_header
from hermes_celery.settings import read_settings
from hermes_celery.wiring.own_app import make_app
from tests.support import a_spec, messages_of

RUN_ID = "aaaaaaaaaaaa-20260622T120000Z"
AWKWARD = 'näh "quoted" \\ — 🜲 <b>'


@pytest.mark.parametrize("name", ["nightly", AWKWARD])
def test_our_own_message_equals_that_of_apply_async(name: str) -> None:
    app = make_app(read_settings({}))
    spec = a_spec(name=name, origin=Origin(platform="telegram", chat_name=AWKWARD))
    ours = json.loads(messages_of(app).message(spec, run_id=RUN_ID, due_ms=1))
    theirs = _sent(app, spec_name=name, header=_header_of(spec))
    assert json.loads(base64.b64decode(ours["body"])) == json.loads(
        base64.b64decode(theirs["body"])
    )
    for message in (ours, theirs):
        message.pop("body")
        assert message["properties"].pop("delivery_tag")
    assert ours == theirs


def test_every_message_has_its_own_delivery_tag() -> None:
    dispatch = messages_of(make_app(read_settings({})))
    tags = {
        json.loads(dispatch.message(a_spec(), run_id=run_id, due_ms=1))["properties"][
            "delivery_tag"
        ]
        for run_id in ("r1", "r2", "r3")
    }
    assert len(tags) == 3


def test_a_redelivered_message_has_its_own_id_and_names_the_run() -> None:
    dispatch = messages_of(make_app(read_settings({})))
    message = json.loads(dispatch.message(a_spec(), run_id=RUN_ID, due_ms=1, push=2))
    headers = message["headers"]
    assert headers["id"] == message["properties"]["correlation_id"] == f"{RUN_ID}.2"
    assert headers["hermes"]["message"] == f"{RUN_ID}.2"
    assert headers["hermes"]["session"]["run_id"] == RUN_ID
    assert json.loads(base64.b64decode(message["body"]))[0] == [RUN_ID]
    assert headers["argsrepr"] == f"('{RUN_ID}',)"
    # Version 1, since the claim of our own task does not read the header: older workers may run it.
    assert headers["hermes"]["version"] == 1


def test_a_redelivered_task_message_is_refused_by_older_workers() -> None:
    dispatch = messages_of(Celery("shop", broker="redis://nowhere", set_as_current=False))
    spec = a_spec(prompt=None, task=TaskCall(name="shop.x"))
    versions = [
        json.loads(dispatch.message(spec, run_id=RUN_ID, due_ms=1, push=push))["headers"]["hermes"][
            "version"
        ]
        for push in (0, 1)
    ]
    assert versions == [1, 2]


def _header_of(spec: JobSpec) -> dict[str, Any]:
    return to_header(session_of(spec, run_id=RUN_ID, due_ms=1), message=RUN_ID)


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


def test_a_tasks_message_equals_that_of_its_apply_async() -> None:
    app = Celery("shop", broker="redis://nowhere", set_as_current=False)
    app.conf.task_routes = {"shop.report": {"queue": "far", "priority": 5}}

    @app.task(name="shop.report", shared=False)  # type: ignore[untyped-decorator]
    def report(day: str, *, full: bool = False) -> None:
        raise AssertionError("a message is built, nothing is executed")

    call = TaskCall(name="shop.report", args=["mon"], kwargs={"full": True})
    spec = a_spec(prompt=None, task=call)
    dispatch = messages_of(app)
    ours = json.loads(dispatch.message(spec, run_id=RUN_ID, due_ms=1))
    header = _header_of(spec)
    with Connection("memory://") as connection:
        report.apply_async(
            args=("mon",),
            kwargs={"full": True},
            task_id=RUN_ID,
            headers={"hermes": header, "celery_beat_task": True},
            # Flower shows the job's name.
            shadow=spec.name,
            connection=connection,
        )
        theirs = connection.default_channel._get("far")
    assert ours["properties"].pop("delivery_tag") == RUN_ID
    assert theirs["properties"].pop("delivery_tag")
    assert ours == theirs
    # kombu on Redis keeps a list per priority step: 5 falls to 3.
    assert dispatch.queue(spec) == "far\x06\x163"


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({}, "hermes"),
        ({"queue": "gpu"}, "gpu"),
        ({"priority": 2}, "hermes"),
        ({"queue": "gpu", "priority": 9}, "gpu\x06\x169"),
    ],
)
def test_queue_and_priority_choose_the_redis_list(fields: dict[str, Any], key: str) -> None:
    dispatch = messages_of(make_app(read_settings({})))
    spec = a_spec(**fields)
    assert dispatch.queue(spec) == key
    properties = json.loads(dispatch.message(spec, run_id=RUN_ID, due_ms=1))["properties"]
    assert properties["priority"] == fields.get("priority", 0)


def test_a_relative_expiry_counts_from_each_message() -> None:
    dispatch = messages_of(Celery("shop", broker="redis://nowhere", set_as_current=False))
    spec = a_spec(prompt=None, task=TaskCall(name="shop.x", options={"expires": 60}))

    def expires() -> str:
        message = json.loads(dispatch.build(spec, run_id=RUN_ID, due_ms=1).message)
        return str(message["headers"]["expires"])

    assert expires() < expires()


def test_wrong_arguments_are_refused_when_the_message_is_built() -> None:
    app = Celery("shop", broker="redis://nowhere", set_as_current=False)

    @app.task(name="shop.none", shared=False)  # type: ignore[untyped-decorator]
    def none() -> None:
        raise AssertionError("a message is built, nothing is executed")

    spec = a_spec(prompt=None, task=TaskCall(name="shop.none", args=[1]))
    # The fault is recorded on the occurrence when its message is built; until then a stand-in
    # takes the message's place.
    assert is_stand_in(messages_of(app).message(spec, run_id=RUN_ID, due_ms=1))
    with pytest.raises(TypeError):
        messages_of(app).build(spec, run_id=RUN_ID, due_ms=1)


_AFTER = Celery("x", set_as_current=False).signature("shop.after", (date(2024, 1, 2),))


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"tenant": "a", "since": date(2024, 1, 2)}},
        {"link": _AFTER, "link_error": [_AFTER, _AFTER]},
        {"serializer": "pickle"},
        {"serializer": "yaml", "compression": "gzip"},
        {"priority": 10, "queue": "{celery}"},
        {"time_limit": 5, "soft_time_limit": 2.5, "ignore_result": True},
        {"routing_key": "off", "exchange": "wide"},
        {"expires": datetime(2030, 1, 1, tzinfo=UTC)},
        {"argsrepr": "(hidden)", "shadow": "shown", "retry_policy": {"max_retries": 1}},
        {"stamped_headers": ["by"], "by": "me"},
    ],
)
def test_options_and_values_in_a_message_equal_those_of_apply_async(
    options: dict[str, Any],
) -> None:
    app = Celery("shop", broker="redis://nowhere", set_as_current=False)
    app.conf.task_queues = [Queue("celery"), Queue("far", Exchange("wide"), routing_key="off")]

    @app.task(name="shop.kept", shared=False)  # type: ignore[untyped-decorator]
    def report(*_: object, **__: object) -> None:
        raise AssertionError("a message is built, nothing is executed")

    args, kwargs = [b"x", date(2024, 1, 2)], {"at": datetime(2024, 1, 2, tzinfo=UTC)}
    call = TaskCall(name="shop.kept", args=args, kwargs=kwargs, options=options)
    spec = a_spec(prompt=None, task=checked_task(call))
    ours = json.loads(messages_of(app).build(spec, run_id=RUN_ID, due_ms=1).message)
    with Connection("memory://") as connection:
        for declared in app.amqp.queues.values():
            declared(connection.default_channel).declare()
        report.apply_async(
            args=tuple(args),
            kwargs=kwargs,
            task_id=RUN_ID,
            connection=connection,
            **{
                "shadow": spec.name,
                **options,
                "headers": {
                    **options.get("headers", {}),
                    "hermes": _header_of(spec),
                    "celery_beat_task": True,
                },
            },
        )
        queue = options.get("queue") or ("far" if "exchange" in options else "celery")
        theirs = connection.default_channel._get(queue)
    assert ours["properties"].pop("delivery_tag") == RUN_ID
    assert theirs["properties"].pop("delivery_tag")
    # The milliseconds until the message expires differ between the two.
    assert ("expiration" in ours["properties"]) == ("expires" in options)
    for message in (ours, theirs):
        message["properties"].pop("expiration", None)
    assert ours == json.loads(dumps(theirs))


@pytest.mark.parametrize("steps", [None, [0, 3, 6, 9], [0], list(range(10)), [0, 5, 100, 200]])
@pytest.mark.parametrize("priority", [0, 1, 3, 5, 9, 10, 100, 255])
def test_a_priority_chooses_the_same_list_as_kombu(steps: list[int] | None, priority: int) -> None:
    app = Celery("shop", broker="redis://nowhere", set_as_current=False)
    app.conf.broker_transport_options = {} if steps is None else {"priority_steps": steps}
    spec = a_spec(prompt=None, priority=priority, task=TaskCall(name="shop.x"))
    assert messages_of(app).queue(spec) == _KombuChannel(steps).list_for("celery", priority)


class _KombuChannel(Channel):
    """kombu's own channel without a connection, which shows the list that kombu chooses."""

    def __init__(self, steps: list[int] | None) -> None:
        if steps is not None:
            self.priority_steps = steps

    def list_for(self, queue: str, priority: int) -> str:
        """Return the list onto which kombu pushes a message of that priority."""
        message = {"properties": {"priority": priority}}
        limited = self._get_message_priority(message)  # type: ignore[no-untyped-call]
        return str(self._q_for_pri(queue, limited))  # type: ignore[no-untyped-call]

    def __del__(self) -> None:
        """Do nothing: no connection needs closing."""
