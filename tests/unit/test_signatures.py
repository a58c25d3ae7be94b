"""A Celery signature is accepted wherever a task is; a group, chain or chord is refused."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, chain, chord, group

from hermes_celery.core.job import JobRequest
from hermes_celery.core.job_checks import checked_content
from hermes_celery.core.task_call import call_of, live_call
from hermes_celery.core.work import TaskCall
from hermes_celery.errors import JobError
from hermes_celery.interop.beat_schedule import declared_of, requests_of
from hermes_celery.interop.cron_attributes import DECLARED, REFUSED
from hermes_celery.wiring.project import Cron

APP = Celery("shop", broker="redis://nowhere", set_as_current=False)


@APP.task(name="shop.ok")  # type: ignore[untyped-decorator]
def ok(*args: Any, **kwargs: Any) -> list[Any]:
    return [*args, kwargs]


SIGNATURE = ok.s(4, full=True).set(queue="special", expires=60)
WHOLE = ("shop.ok", [4], {"full": True}, {"queue": "special", "expires": 60})
MANY = {
    "chain": ok.s(4) | ok.s(),
    "chain of one": chain(ok.s(1)) | ok.s(),
    "group": group(ok.s(1), ok.s(2)),
    "chord": chord([ok.s(1)], ok.s()),
}


def parts(call: TaskCall) -> tuple[Any, ...]:
    call = live_call(call)
    return call.name, call.args, call.kwargs, dict(call.options)


def content_of(**fields: Any) -> TaskCall:
    call = checked_content(JobRequest(schedule="every 5m", **fields))["task"]
    assert isinstance(call, TaskCall)
    return call


def declared(**fields: Any) -> JobRequest:
    app = Celery("shop", broker="redis://nowhere", set_as_current=False)
    Cron(app).add("x", "every 5m", **fields)
    taken, refused = declared_of(app, default_timezone="UTC")
    if refused:
        raise JobError(refused["x"])
    return taken["x"]


def entry_of(**fields: Any) -> tuple[dict[str, JobRequest], dict[str, str]]:
    app = Celery("shop", broker="redis://nowhere", set_as_current=False)
    app.conf.beat_schedule = {"x": {"schedule": 5, **fields}}
    return requests_of(app)


def test_a_signature_keeps_its_arguments_and_options() -> None:
    assert parts(declared(task=SIGNATURE).task) == WHOLE
    assert parts(content_of(task=SIGNATURE)) == WHOLE
    assert parts(content_of(task=TaskCall(name=SIGNATURE))) == WHOLE
    request = entry_of(task=SIGNATURE)[0]["x"]
    assert (parts(request.task)[:3], request.queue) == (WHOLE[:3], "special")
    assert parts(request.task)[3] == {"expires": 60}


def test_arguments_beside_a_signature_are_merged_as_celery_does() -> None:
    beside: dict[str, Any] = {"args": [3], "kwargs": {"full": False, "n": 1}}
    theirs = SIGNATURE.clone((3,), beside["kwargs"])
    for call in (
        declared(task=SIGNATURE, **beside, options={"queue": "q"}).task,
        entry_of(task=SIGNATURE, **beside)[0]["x"].task,
        content_of(task=TaskCall(name=SIGNATURE, **beside)),
    ):
        assert tuple(call.args) == theirs.args == (3, 4)
        assert call.kwargs == theirs.kwargs == {"full": False, "n": 1}
    assert declared(task=SIGNATURE, options={"queue": "q"}).task.options["queue"] == "q"
    assert declared(task=ok.si(4), **beside).task.args == [4]
    assert SIGNATURE.args == (4,)


def test_a_countdown_of_a_signature_is_part_of_the_schedule() -> None:
    assert declared(task=ok.s().set(countdown=10)).schedule == "every 5m delayed 10s"


@pytest.mark.parametrize("name", MANY)
def test_several_tasks_are_refused_with_what_to_write_instead(name: str) -> None:
    many = MANY[name]
    why = f"a {name.partition(' ')[0]} is not a single task.*write a task that starts it"
    for take in (
        lambda: declared(task=many),
        lambda: content_of(task=many),
        lambda: content_of(task=TaskCall(name=many.task)),
    ):
        with pytest.raises(JobError, match=why):
            take()
    taken, refused = entry_of(task=many)
    assert not taken
    assert "is not a single task" in refused["x"]


def test_add_periodic_task_accepts_a_signature_and_refuses_a_chain() -> None:
    app = Celery("shop", broker="redis://nowhere", set_as_current=False)
    app.add_periodic_task(5, MANY["chain"], name="many")
    app.add_periodic_task(5, SIGNATURE, name="one")
    taken, refused = requests_of(app)
    assert "a chain is not a single task" in refused["many"]
    assert parts(taken["one"].task)[:3] == WHOLE[:3]


@pytest.mark.parametrize("many", [ok.map([1, 2]), ok.starmap([(1,)])], ids=str)
def test_map_and_starmap_signatures_are_accepted(many: Any) -> None:
    call = live_call(content_of(task=many))
    done = APP.tasks[call.name].apply(call.args, call.kwargs).get()
    assert done == many.apply().get()


def test_an_entry_with_an_invalid_task_is_refused_with_the_valid_kinds() -> None:
    with pytest.raises(JobError, match="its task is 5; give a task, its name or its signature"):
        call_of(5)
    app = Celery("shop", broker="redis://nowhere", set_as_current=False)
    Cron(app).add("x", "every 5m", task=5)
    assert getattr(app, REFUSED)["x"].startswith("its task is 5")
    assert getattr(app, DECLARED) == {}
