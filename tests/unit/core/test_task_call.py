"""A task's arguments are stored as JSON and read back unchanged; other values are refused."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu.entity import Exchange, Queue
from kombu.utils.json import dumps, loads

from hermes_celery.core.task_call import call_text, checked_task, live_call
from hermes_celery.core.typed_values import exact, live, plain
from hermes_celery.core.work import TaskCall
from hermes_celery.errors import JobError

VALUES = {
    "instant": datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "zoned": datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=8))),
    "naive": datetime.fromisoformat("2024-01-02T00:00:00"),
    "day": date(2024, 1, 2),
    "time": time(3, 4, 5),
    "decimal": Decimal("1.10"),
    "uuid": UUID(int=5),
    "bytes": b"abc",
    "binary": b"\xff\x00",
    "infinite": float("inf"),
    "large": 2**70,
    "nested": [{"a": [date(2024, 1, 2)]}],
}


def stored(call: TaskCall) -> TaskCall:
    """Return a call as it is read back from the store."""
    checked = checked_task(call)
    return msgspec.json.decode(msgspec.json.encode(checked), type=TaskCall)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_read_back_unchanged(name: str) -> None:
    value = VALUES[name]
    call = live_call(stored(TaskCall(name="t", args=[value], kwargs={"k": value})))
    assert (call.args, call.kwargs) == ([value], {"k": value})
    assert type(call.args[0]) is type(value)


def test_nan_is_read_back_as_nan() -> None:
    (value,) = live_call(stored(TaskCall(name="t", args=[float("nan")]))).args
    assert value != value


JSONS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.dates()
    # `isoformat`, which kombu uses, drops the fold.
    | (st.datetimes() | st.datetimes(timezones=st.just(UTC)) | st.times()).map(
        lambda at: at.replace(fold=0)
    )
    | st.decimals(allow_nan=False)
    | st.uuids(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.integers() | st.booleans(), inner)
    ),
    max_leaves=12,
)


@given(JSONS)
def test_a_task_gets_the_same_arguments_as_from_celerys_own_message(value: Any) -> None:
    try:
        theirs = loads(dumps([value]))
    except (TypeError, ValueError):  # a text that JSON cannot hold
        return
    call = live_call(stored(TaskCall(name="t", args=[value])))
    assert loads(dumps(call.args)) == theirs


@given(JSONS)
def test_the_exact_form_loses_nothing(value: Any) -> None:
    written = msgspec.json.decode(msgspec.json.encode(exact(value, place="x")))
    assert live(written) == value
    assert repr(live(written)) == repr(value)


@given(JSONS)
def test_checking_a_stored_call_again_changes_nothing(value: Any) -> None:
    once = checked_task(TaskCall(name="t", args=[value], kwargs={"k": value}))
    assert checked_task(once) == once


def test_programs_without_typed_values_send_the_same_message() -> None:
    # Older programs pass args and kwargs to kombu as they are stored.
    call = stored(TaskCall(name="t", args=[VALUES["instant"], (1, 2)], kwargs={"d": Decimal(1)}))
    assert loads(dumps([call.args, call.kwargs])) == [
        [VALUES["instant"], [1, 2]],
        {"d": Decimal(1)},
    ]


def test_an_exact_form_that_does_not_match_the_arguments_is_ignored() -> None:
    call = stored(TaskCall(name="t", args=[(1, 2)]))
    assert live_call(call).args == [(1, 2)]
    edited = msgspec.structs.replace(call, args=[[3]])
    assert live_call(edited).args == [[3]]


def test_a_value_of_an_unknown_type_is_left_unchanged() -> None:
    money = {"__type__": "money", "__value__": "1 EUR"}
    assert live_call(stored(TaskCall(name="t", args=[money]))).args == [money]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("datetime", "soon"),
        ("date", 5),
        ("decimal", "many"),
        ("uuid", {"hex": "x"}),
        ("uuid", None),
        ("bytes", 5),
        ("hermes_celery.dict", 5),
        ("hermes_celery.float", "much"),
    ],
)
def test_a_value_that_is_invalid_for_its_type_is_refused(name: str, value: Any) -> None:
    call = TaskCall(name="t", args=[{"__type__": name, "__value__": value}])
    with pytest.raises(JobError, match=f"is not a {name}: "):
        checked_task(call)
    # A call that was stored with such a value is shown unconverted.
    assert f"'__type__': '{name}'" in call_text(call)


def func() -> None:
    """A function, which no job can store."""


class Thing:
    """A class of the user's own."""


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (TaskCall(name="t", args=[1, {2}]), r"args\[1\] is a set, .* give a list"),
        (TaskCall(name="t", kwargs={"f": func}), r"kwargs\['f'\] is a function func, which cannot"),
        (TaskCall(name="t", kwargs={"a": [{"x": Thing()}]}), r"\['a'\]\[0\]\['x'\] is a .*Thing"),
        (TaskCall(name="t", kwargs={"f": lambda: 1}), "is a function .*lambda"),
        (TaskCall(name="t", args=[{(1, 2): 3}]), r"args\[0\] has the key \(1, 2\), a tuple"),
        (TaskCall(name="t", args=[timedelta(1)]), r"args\[0\] is a datetime.timedelta"),
        (TaskCall(name="t", options={"exchange": Exchange("x")}), r"\['exchange'\] is a kombu"),
        (TaskCall(name="t", args=["\ud800"]), r"^args\[0\] contains '\\ud800', which is half"),
        (TaskCall(name="t", kwargs={"a": ["\udcff"]}), r"^kwargs\['a'\]\[0\] contains '\\udcff'"),
        (TaskCall(name="t", kwargs={"\ud800": 1}), r"^a key of kwargs contains '\\ud800'"),
        (TaskCall(name="t", args=[{5: 1, "\ud800": 1}]), r"^a key of args\[0\] contains '\\ud800'"),
        (TaskCall(name="t", options={"queue": "\ud800"}), r"^options\['queue'\] contains '\\ud"),
        (TaskCall(name="t", options={"\ud800": 1}), r"^a key of options contains '\\ud800'"),
        (TaskCall(name="t", options={"headers": {"a": "\ud800"}}), r"\['a'\] contains '\\ud800'"),
        (TaskCall(name="t", args="abc"), r"its args are 'abc'; give a list, such as \['abc'\]"),  # type: ignore[arg-type]
        (TaskCall(name="t", kwargs=[1]), r"its kwargs are \[1\]; give a dict"),  # type: ignore[arg-type]
        (TaskCall(name=" "), "not a task's name"),
        (TaskCall(name="a\nb"), "not a task's name"),
        (TaskCall(name="t", options={"expires": timedelta(minutes=5)}), "here 300, or a datetime"),
        (TaskCall(name="t", options={"expires": "PT300S"}), "'PT300S', which apply_async does not"),
        (TaskCall(name="t", options={"expires": "2024-01-01"}), "apply_async does not accept"),
        (TaskCall(name="t", options={"expires": 0}), "more than 0 seconds"),
        (TaskCall(name="t", options={"expires": True}), "apply_async does not accept"),
        (TaskCall(name="t", options={"countdown": 10}), "write it into the schedule"),
        (TaskCall(name="t", options={"eta": 1}), "eta is not accepted"),
        (TaskCall(name="t", options={"task_id": "x"}), "task_id is not accepted"),
        (TaskCall(name="t", options={"headers": {"hermes": 1}}), "the key 'hermes'"),
        (TaskCall(name="t", options={"headers": {"id": 1}}), "the key id, which is Celery's own"),
        (TaskCall(name="t", options={"headers": ["a"]}), "give a dict"),
        (TaskCall(name="t", options={"priority": 256}), "priority is 256; it must be 0 to 255"),
        (TaskCall(name="t", options={"priority": "high"}), "not a whole number"),
        (
            TaskCall(name="t", options={"queue": Queue("q", Exchange("x", type="topic"))}),
            "queue q has a topic exchange",
        ),
        (
            TaskCall(name="t", options={"queue": Queue("\ud800", Exchange("x", type="topic"))}),
            r"queue \\ud800 has a topic exchange",
        ),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_stored_is_refused_by_its_place(call: TaskCall, why: str) -> None:
    with pytest.raises(JobError, match=why):
        checked_task(call)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(JobError, match="cannot be written"):
        checked_task(TaskCall(name="t", args=loop))


def test_options_of_a_call_are_stored() -> None:
    app = Celery("options", set_as_current=False)
    after = app.signature("t.after", args=(1,), kwargs={"day": date(2024, 1, 2)})
    options = {
        "expires": datetime(2030, 1, 1, tzinfo=UTC),
        "headers": {"tenant": "a", "since": date(2024, 1, 2)},
        "priority": 10,
        "queue": Queue("{celery}"),
        "link": after,
        "link_error": [after],
        "countdown": None,
        "retry_policy": {"max_retries": 3},
    }
    call = stored(TaskCall(name="a task's name with blanks", options=options))
    # Celery writes instants into messages in this form.
    assert call.options["expires"] == "2030-01-01T00:00:00+00:00"
    kept = live_call(call).options
    assert kept["headers"] == options["headers"]
    assert (kept["priority"], kept["queue"]) == (10, "{celery}")
    assert kept["retry_policy"] == {"max_retries": 3}
    assert app.signature(kept["link"]) == after
    assert kept["link_error"][0]["kwargs"] == {"day": date(2024, 1, 2)}
    assert "countdown" not in kept


def test_a_call_is_shown_as_python_would_write_it() -> None:
    call = stored(TaskCall(name="t", args=[date(2024, 1, 2), (1,)], kwargs={"x": "y"}))
    assert call_text(call) == "t(datetime.date(2024, 1, 2), (1,), x='y')"
    long = call_text(stored(TaskCall(name="t", args=["x" * 1000])))
    assert (len(long), long[-3:]) == (203, "...")
    assert json.dumps(plain(call.kwargs, place="kwargs")) == '{"x": "y"}'
