"""A task's message has every option as `apply_async` sends it, and threads do not mix messages."""

from __future__ import annotations

import base64
import functools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import FunctionType
from typing import Any

import pytest
from celery import Celery, signals
from celery._state import _task_stack
from celery.app.amqp import AMQP
from celery.app.task import Task
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

from hermes_celery.celery_app.message_channel import catching_connection
from hermes_celery.core.built_message import BuildOutcome, BuiltMessage, is_stand_in
from hermes_celery.core.job import JobSpec
from hermes_celery.core.work import TaskCall
from hermes_celery.errors import JobError
from hermes_celery.session import session_of, to_header
from hermes_celery.wiring.collaborators import hook_app
from tests.support import a_spec, messages_of, replaced

RUN_ID = "aaaaaaaaaaaa-20260622T120000Z"
LATER = datetime(2099, 1, 1, tzinfo=UTC)


def an_app(**conf: Any) -> Celery:
    app = Celery("shop", broker="redis://nowhere", set_as_current=False)
    app.conf.task_queues = [
        Queue("celery"), Queue("far", Exchange("far", type="direct"), routing_key="away"),
    ]  # fmt: skip
    app.conf.update(conf)

    @app.task(name="shop.report", shared=False)  # type: ignore[untyped-decorator]
    def report(day: str = "", **_: Any) -> None:
        raise AssertionError("a message is built, nothing is executed")

    return app


def _body(day: str = "") -> None:
    raise AssertionError("a message is built, nothing is executed")


def task_spec(name: str = "shop.report", **options: Any) -> JobSpec:
    """Return a job that calls a task, unchecked, so that options may be more than JSON holds."""
    call = TaskCall(name=name, args=["mon"], options=options)
    return replaced(a_spec(name="nightly"), prompt=None, task=call)  # type: ignore[no-any-return]


def build(app: Celery, spec: JobSpec, *, push: int = 0) -> BuiltMessage:
    return messages_of(app).build(spec, run_id=RUN_ID, due_ms=1, push=push)


def decoded(message: Any) -> dict[str, Any]:
    """Return a message without the fields that differ by chance or by the clock."""
    found: dict[str, Any] = json.loads(message) if isinstance(message, bytes) else message
    found["properties"].pop("delivery_tag")
    # The milliseconds until the message expires.
    found["properties"].pop("expiration", None)
    if found["content-type"] == "application/json" and not found["headers"].get("compression"):
        found["body"] = json.loads(base64.b64decode(found["body"]))
    return found


OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "serializer": {"serializer": "yaml"},
    "pickle": {"serializer": "pickle"},
    "compression": {"compression": "gzip"},
    "priority": {"priority": 6},
    "queue": {"queue": "far"},
    "routing_key": {"queue": "far", "routing_key": "away"},
    "exchange": {"exchange": "far", "routing_key": "away", "queue": "far"},
    "expires, an instant": {"expires": LATER},
    "expires, a text": {"expires": LATER.isoformat()},
    "eta": {"eta": LATER},
    "time_limit": {"time_limit": 30},
    "soft_time_limit": {"time_limit": 30, "soft_time_limit": 20},
    "link": {"link": {"task": "shop.next", "args": [1], "kwargs": {}, "options": {}}},
    "link_error": {"link_error": [{"task": "shop.sorry", "args": [], "kwargs": {}, "options": {}}]},
    "ignore_result": {"ignore_result": True},
    "shadow": {"shadow": "shown so"},
    "headers": {"headers": {"tenant": "t1", "celery_beat_task": "theirs"}},
    "reply_to": {"reply_to": "there"},
    "argsrepr": {"argsrepr": "('***',)", "kwargsrepr": "{...}"},
    "retry_policy": {"retry": True, "retry_policy": {"max_retries": 1}},
    "delivery_mode": {"delivery_mode": 1},
    "stamps": {"stamped_headers": ["batch"], "batch": "b1"},
    "group": {"group_id": "g1", "group_index": 2},
    "root and parent": {"root_id": "r1", "parent_id": "p1"},
    "chain": {"chain": [{"task": "shop.next", "args": [], "kwargs": {}, "options": {}}]},
    "a property": {"user_id": "u1"},
}


@pytest.mark.parametrize("own_code", [False, True], ids=["template", "own code"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_every_option_is_sent_as_apply_async_sends_it(
    options: dict[str, Any], own_code: bool
) -> None:
    app, spec = an_app(), task_spec(**options)
    with connected() if own_code else not_connected():
        ours = build(app, spec)
        header = to_header(session_of(spec, run_id=RUN_ID, due_ms=1), message=RUN_ID)
        queue = options.get("queue", "celery")
        headers = {**options.get("headers", {}), "celery_beat_task": True, "hermes": header}
        with Connection("memory://") as connection:
            app.tasks["shop.report"].apply_async(
                args=("mon",), kwargs={}, task_id=RUN_ID, connection=connection,
                **{"shadow": "nightly", **options, "headers": headers},
            )  # fmt: skip
            theirs = connection.default_channel._get(queue)
    assert decoded(ours.message) == decoded(theirs)
    assert ours.queue.partition("\x06")[0] == queue


@contextmanager
def connected(
    receiver: Callable[..., None] = lambda **_: None, signal: Any = signals.before_task_publish
) -> Iterator[None]:
    """Connect a receiver to a publish signal, as a project may."""
    signal.connect(receiver, weak=False)
    try:
        yield
    finally:
        signal.disconnect(receiver)


@contextmanager
def not_connected() -> Iterator[None]:
    yield


def is_plain(app: Celery, name: str = "shop.report", **options: Any) -> bool:
    message = messages_of(app).message(task_spec(name, **options), run_id=RUN_ID, due_ms=1)
    return not is_stand_in(message)


def test_the_message_of_a_plain_task_comes_from_a_template() -> None:
    app = an_app()
    hook_app(app)
    assert is_plain(app)
    assert is_plain(app, "shop.registered-elsewhere")


@pytest.mark.parametrize("signal", [signals.before_task_publish, signals.after_task_publish])
def test_a_receiver_connected_later_turns_the_template_off(signal: Any) -> None:
    dispatch, spec = messages_of(an_app()), task_spec()
    assert not is_stand_in(dispatch.message(spec, run_id=RUN_ID, due_ms=1))
    with connected(signal=signal):
        assert is_stand_in(dispatch.message(spec, run_id=RUN_ID, due_ms=1))
    assert not is_stand_in(dispatch.message(spec, run_id=RUN_ID, due_ms=1))


def test_a_receiver_that_replaces_another_turns_the_template_off() -> None:
    dispatch, spec = messages_of(an_app()), task_spec()

    def of_others(**_: Any) -> None:
        return

    signals.before_task_publish.connect(of_others, sender="shop.other")
    assert not is_stand_in(dispatch.message(spec, run_id=RUN_ID, due_ms=1))
    signals.before_task_publish.disconnect(of_others, sender="shop.other")
    with connected(signal=signals.before_task_publish):
        assert is_stand_in(dispatch.message(spec, run_id=RUN_ID, due_ms=1))


def _set_router(app: Celery) -> None:
    app.conf.task_routes = (_route,)
    app.amqp.flush_routes()
    app.amqp.router = app.amqp.Router()


_LATE: dict[str, Callable[[Celery], None]] = {
    "another router": _set_router,
    "another route": lambda app: setattr(app.amqp.router, "routes", [_route]),
    "send_task of the app": lambda app: setattr(app, "send_task", wrapped(app.send_task)),
    "send_task_message": lambda app: setattr(
        app.amqp, "send_task_message", wrapped(app.amqp.send_task_message)
    ),
    "as_task_v2": lambda app: setattr(app.amqp, "as_task_v2", wrapped(app.amqp.as_task_v2)),
    "another amqp": lambda app: setattr(app, "amqp", type("Amqp", (AMQP,), {})(app)),
    "apply_async of the task": lambda app: setattr(
        app.tasks["shop.report"], "apply_async", wrapped(app.tasks["shop.report"].apply_async)
    ),
    "shadow_name of the task": lambda app: setattr(
        app.tasks["shop.report"], "shadow_name", wrapped(app.tasks["shop.report"].shadow_name)
    ),
}


@pytest.mark.parametrize("change", list(_LATE.values()), ids=list(_LATE))
def test_a_change_after_the_first_message_turns_the_template_off(
    change: Callable[[Celery], None],
) -> None:
    app = an_app()
    hook_app(app)
    dispatch, spec = messages_of(app), task_spec()
    assert not is_stand_in(dispatch.message(spec, run_id=RUN_ID, due_ms=1))
    change(app)
    assert is_stand_in(dispatch.message(spec, run_id=RUN_ID, due_ms=1))


def test_a_receiver_for_another_task_leaves_the_template_on() -> None:
    app = an_app()
    heard: list[str] = []

    def receiver(sender: str = "", **_: Any) -> None:
        heard.append(sender)

    signals.before_task_publish.connect(receiver, sender="shop.other")
    try:
        assert is_plain(app)
        assert not is_plain(app, "shop.other")
    finally:
        signals.before_task_publish.disconnect(receiver, sender="shop.other")
    assert heard == []


def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function as monitoring libraries do: the wrapper has the name of the original."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    return wrapper


class Proxy:
    """A proxy like wrapt's: its `__class__` is that of the wrapped function."""

    __class__ = FunctionType  # type: ignore[assignment]

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function
        self.__code__ = function.__code__

    def __get__(self, instance: Any, owner: type) -> Any:
        return self.__wrapped__.__get__(instance, owner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)


@pytest.mark.parametrize("wrap", [wrapped, Proxy])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Celery, "send_task"),
        (Task, "apply_async"),
        (AMQP, "as_task_v2"),
        (Producer, "publish"),
    ],
    ids=["send_task", "apply_async", "as_task_v2", "publish"],
)
def test_a_method_patched_by_a_monitoring_library_turns_the_template_off(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, wrap: Any
) -> None:
    monkeypatch.setattr(owner, name, wrap(vars(owner)[name]))
    assert not is_plain(an_app())


def _route(name: str, *_: Any, **__: Any) -> dict[str, str]:
    return {"queue": "far"}


def test_a_callable_router_turns_the_template_off_and_a_table_does_not() -> None:
    assert is_plain(an_app(task_routes={"shop.*": {"queue": "far"}}))
    app = an_app(task_routes=(_route,))
    assert not is_plain(app)
    assert build(app, task_spec()).queue == "far"


@pytest.mark.parametrize(
    "options",
    [{"expires": 5}, {"countdown": 5}, {"eta": LATER}],
    ids=["expires", "countdown", "eta"],
)
def test_an_option_relative_to_the_message_turns_the_template_off(options: dict[str, Any]) -> None:
    assert not is_plain(an_app(), **options)


@pytest.mark.parametrize(
    "annotations", [{"shop.report": {"expires": 5}}, {"*": {"expires": 5}}], ids=["one", "all"]
)
def test_a_lifetime_set_by_an_annotation_turns_the_template_off(
    annotations: dict[str, Any],
) -> None:
    assert not is_plain(an_app(task_annotations=annotations))


def test_a_lifetime_counts_from_the_creation_of_each_message() -> None:
    app = an_app(task_annotations={"*": {"expires": 60}})
    instants = [
        datetime.fromisoformat(json.loads(build(app, task_spec()).message)["headers"]["expires"])
        for _ in range(2)
    ]
    assert instants[0] < instants[1]
    assert timedelta(seconds=50) < instants[1] - datetime.now(UTC) < timedelta(seconds=61)


def test_a_projects_shadow_name_is_called_for_each_message() -> None:
    app = an_app()
    shown = iter(["first", "second"])
    app.task(_body, shared=False, name="shop.named", shadow_name=lambda *_: next(shown))
    messages = [json.loads(build(app, task_spec("shop.named")).message) for _ in range(2)]
    assert [message["headers"]["shadow"] for message in messages] == ["first", "second"]


def test_our_own_messages_and_stand_ins_send_no_publish_signal() -> None:
    app = an_app()
    hook_app(app)
    heard: list[str] = []
    with connected(lambda headers=None, **_: heard.append(headers["id"])):
        dispatch = messages_of(app)
        dispatch.message(a_spec(), run_id=RUN_ID, due_ms=1)
        dispatch.delivery_message(RUN_ID, label="x")
        assert heard == []
        assert is_stand_in(dispatch.message(task_spec(), run_id=RUN_ID, due_ms=1))
        assert heard == []
        dispatch.build(task_spec(), run_id=RUN_ID, due_ms=1)
    assert heard == [RUN_ID]


@pytest.mark.parametrize(
    "conf",
    [
        {"task_serializer": "pickle", "accept_content": ["pickle"]},
        {"task_serializer": "yaml"},
        {"task_compression": "gzip"},
        {"task_protocol": 1},
        {"task_annotations": {"*": {"serializer": "pickle", "compression": "bzip2", "expires": 5}}},
    ],
    ids=["pickle", "yaml", "gzip", "protocol 1", "annotations"],
)
def test_our_own_messages_are_uncompressed_json_in_every_project(conf: dict[str, Any]) -> None:
    app = an_app(**conf)
    hook_app(app)
    dispatch = messages_of(app)
    for message in (
        dispatch.message(a_spec(), run_id=RUN_ID, due_ms=1),
        dispatch.delivery_message(RUN_ID, label="x"),
    ):
        found = json.loads(message)
        assert found["content-type"] == "application/json"
        assert not found["headers"].get("compression")
        assert found["headers"]["expires"] is None
        assert json.loads(base64.b64decode(found["body"]))[0] == [RUN_ID]


@pytest.mark.parametrize(
    ("name", "options", "places"),
    [
        ("shop.report", {"queue": "news"}, "the fan-out exchange news"),
        ("shop.report", {"queue": "topical", "routing_key": "x.y"}, "no queue"),
        ("shop.twice", {}, "celery, celery"),
    ],
    ids=["fan-out", "none", "two"],
)
def test_a_message_that_goes_to_no_or_several_queues_is_refused(
    name: str, options: dict[str, Any], places: str
) -> None:
    app = an_app(
        task_queues=[
            Queue("celery"),
            Queue("news", Exchange("news", type="fanout"), routing_key=""),
            Queue("topical", Exchange("topical", type="topic"), routing_key="a.b"),
        ]
    )

    class Twice(app.Task):  # type: ignore[name-defined, misc]
        abstract = True

        def apply_async(self, *args: Any, **options: Any) -> Any:
            super().apply_async(*args, **options)
            return super().apply_async(*args, **options)

    app.task(_body, shared=False, name="shop.twice", base=Twice)
    with pytest.raises(JobError, match=f"goes to {places}, and a run needs exactly one queue"):
        build(app, task_spec(name, **options))


def test_two_threads_build_at_once_and_each_gets_its_own_message() -> None:
    app = an_app()
    for number in range(8):
        app.task(_body, shared=False, name=f"shop.{number}", expires=60)
    dispatch = messages_of(app)
    gate = threading.Barrier(4)
    wrong: list[object] = []

    def work(first: int) -> None:
        gate.wait()
        for turn in range(60):
            name = f"shop.{(first + turn) % 8}"
            run_id = f"{first:012x}-20260622T1200{turn:02}Z"
            spec = task_spec(name, **({"queue": "far"} if turn % 2 else {}))
            try:
                built = dispatch.build(spec, run_id=run_id, due_ms=1)
                headers = json.loads(built.message)["headers"]
                found = (headers["task"], headers["id"], built.queue)
                if found != (name, run_id, "far" if turn % 2 else "celery"):
                    wrong.append(found)
            except Exception as error:  # noqa: BLE001 - the test reports it
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class Elsewhere:
    """Registers a task whose own apply_async publishes through another connection."""

    def __init__(self, app: Celery, *, keeps: tuple[str, ...]) -> None:
        base = app.Task

        class Own(base):  # type: ignore[misc, valid-type]
            abstract = True

            def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
                kept = {name: options[name] for name in keeps}
                with catching_connection() as connection:
                    return super().apply_async(args, kwargs, connection=connection, **kept)

        app.task(_body, shared=False, name="shop.own", base=Own)


@pytest.mark.parametrize(
    ("keeps", "way"),
    [
        ((), BuildOutcome.UNFOLLOWED),
        (("task_id",), BuildOutcome.UNFOLLOWED),
        (("task_id", "headers"), BuildOutcome.ELSEWHERE),
    ],
)
def test_a_task_published_elsewhere_has_an_outcome_of_its_own(
    keeps: tuple[str, ...], way: BuildOutcome
) -> None:
    app = an_app()
    Elsewhere(app, keeps=keeps)
    built = build(app, task_spec("shop.own"))
    assert (built.way, built.message) == (way, b"")
    assert bool(built.why_sent) is (way is BuildOutcome.UNFOLLOWED)


def test_a_singleton_task_that_publishes_nothing_is_recorded_as_such() -> None:
    app = an_app()

    class Singleton(app.Task):  # type: ignore[name-defined, misc]
        abstract = True

        def apply_async(self, *_: Any, **__: Any) -> Any:
            # This message belongs to another task.
            with catching_connection() as connection:
                self.app.send_task("shop.audit", connection=connection)
            return self.AsyncResult("another")

    app.task(_body, shared=False, name="shop.single", base=Singleton)
    built = build(app, task_spec("shop.single"))
    assert built.way is BuildOutcome.NOWHERE
    assert (
        built.why
        == "not published: apply_async of shop.single sent no message (one queued already?)"
    )


def test_only_a_run_requested_by_a_task_has_a_parent() -> None:
    app = an_app()
    task, dispatch = app.tasks["shop.report"], messages_of(app)

    def parent() -> object:
        message = dispatch.build(task_spec(), run_id=RUN_ID, due_ms=1).message
        return json.loads(message)["headers"]["parent_id"]

    assert parent() is None
    _task_stack.push(task)
    task.push_request(id="the-parent", called_directly=False)
    try:
        assert parent() == "the-parent"
    finally:
        task.pop_request()
        _task_stack.pop()
    assert parent() is None


def test_a_project_with_task_always_eager_is_refused() -> None:
    app = an_app(task_always_eager=True)
    with pytest.raises(JobError, match="task_always_eager is on"):
        build(app, task_spec())
