"""Malformed messages are recognised before Celery sees them; good messages pass."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pytest

from hermes_celery.core.dead_letters import fault_of, fault_of_call, letter
from hermes_celery.settings import read_settings
from hermes_celery.wiring.own_app import make_app
from tests.bad_messages import SELECTION, corpus, good, nested, with_header
from tests.support import a_spec, messages_of

_RUN = "aaaaaaaaaaaa-20260622T120000Z"


def test_messages_of_ours_and_of_celery_have_no_fault() -> None:
    app = make_app(read_settings({"HERMES_REDIS_URL": "redis://nowhere"}))
    message = json.loads(messages_of(app).message(a_spec(), run_id=_RUN, due_ms=0))
    args, kwargs, embed = json.loads(b64decode(message["body"]))
    assert fault_of(message) is None
    assert fault_of_call(b64decode(message["body"]), args, kwargs, embed) is None
    assert fault_of(good()) is None
    assert fault_of(json.loads(with_header("timelimit", [1.5, None]))) is None
    assert fault_of(json.loads(with_header("custom", {"any": ["thing"]}))) is None


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("null", "it is not a JSON object but missing or null"),
        ("a number", "it is not a JSON object but 42"),
        ("headers are a list", "its headers are a list of 2: [1, 2]"),
        ("properties are a list", "its properties are a list of 0: []"),
        ("no properties", "its properties are missing or null"),
        ("a body that is a number", "its body is 17"),
        ("no delivery tag", "its property delivery_tag is missing or null"),
        ("a time limit that is a word", "its header timelimit is 'soon'"),
        ("a time limit that is one number", "its header timelimit is a list of 1: [5]"),
        ("a time limit that is negative", "its header timelimit is a list of 2: [-5, -7]"),
        ("a time limit that is infinite", "its header timelimit is a list of 2: [inf, None]"),
        ("a time limit that is 10^300", "its header timelimit is a list of 2: [1e+300, 1e+300]"),
        ("an id that is a list", "its header id is a list of 1: [1]"),
        ("errbacks that are a number", "its header errbacks is 5"),
        ("a deep header", "its headers are nested more than 100 deep"),
    ],
)
def test_the_fault_of_a_message_is_named(name: str, fault: str) -> None:
    assert fault_of(json.loads(corpus()[name])) == fault


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ([5, {}, {}], "its args are 5"),
        ([[], [1], {}], "its kwargs are a list of 1: [1]"),
        ([[], {}, 5], "the third part of its body is 5"),
        ([[], {}, {"errbacks": 5}], "its errbacks is 5"),
        ([nested(150), {}, {}], "its arguments are nested more than 100 deep"),
        ([nested(50), {"a": [{}] * 1000}, None], None),
    ],
)
def test_the_fault_of_the_arguments_is_named(body: list[Any], fault: str | None) -> None:
    assert fault_of_call(json.dumps(body), *body) == fault


def test_the_corpus_has_enough_cases_and_one_of_each_class() -> None:
    assert len(corpus()) >= 40
    assert set(SELECTION) <= set(corpus())


@pytest.mark.parametrize(
    ("raw", "run_id"),
    [
        (with_header("id", _RUN), _RUN),
        (with_header("id", _RUN + ".12"), _RUN),
        (with_header("id", _RUN)[:500], _RUN),
        (with_header("root_id", _RUN), ""),
        (b"\xff" * 70_000 + with_header("id", _RUN), ""),
        (with_header("id", "deliver-" + _RUN), ""),
    ],
)
def test_a_dead_letters_run_is_found_only_by_its_message_id(raw: bytes, run_id: str) -> None:
    found = letter(raw, queue="q", why="a\nb", worker="w", at_ms=0)
    assert (found.run_id, found.why) == (run_id, "a b")
