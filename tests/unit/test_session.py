"""The session context has three states, travels in one header and never leaks."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from hermes_celery.core.job import Origin, SessionSource
from hermes_celery.core.targets import Target
from hermes_celery.errors import JobError, SessionError
from hermes_celery.session import (
    MAX_HEADER_BYTES,
    Session,
    async_delivery_supported,
    bound,
    child_environment,
    current_session,
    from_header,
    get_session_env,
    run_carried_by,
    session_of,
    to_header,
)
from tests.support import NOON, a_spec, cases

TELEGRAM = Origin(
    platform="telegram",
    chat_id="-1001",
    chat_name="Group",
    thread_id="17585",
    user_id="42",
    session_key="k",
)
SPEC = a_spec(origin=TELEGRAM, deliver="origin")
SESSION = session_of(SPEC, run_id="r", due_ms=int(NOON.timestamp() * 1000))


def delivers_to(deliver: str, origin: Origin | None) -> Target:
    """Return the chat in the session of a job that delivers to `deliver`."""
    return session_of(a_spec(origin=origin, deliver=deliver), run_id="r", due_ms=0).deliver_to


def test_a_header_reads_back_as_the_session_that_was_written() -> None:
    assert from_header(to_header(SESSION)) == SESSION


def test_the_session_holds_the_jobs_origin_target_and_occurrence() -> None:
    with bound(SESSION):
        read = {name: get_session_env(name) for name in SESSION.variables()}
    assert read["HERMES_SESSION_PLATFORM"] == "telegram"
    assert read["HERMES_SESSION_CHAT_ID"] == "-1001"
    assert read["HERMES_SESSION_THREAD_ID"] == "17585"
    assert read["HERMES_SESSION_USER_ID"] == "42"
    assert read["HERMES_SESSION_KEY"] == "k"
    assert read["HERMES_SESSION_USER_NAME"] == ""
    assert read["HERMES_CRON_AUTO_DELIVER_PLATFORM"] == "telegram"
    assert read["HERMES_CRON_AUTO_DELIVER_CHAT_ID"] == "-1001"
    assert read["HERMES_CRON_SESSION"] == "1"
    assert read["HERMES_CRON_RUN_ID"] == "r"
    assert read["HERMES_CRON_DUE_AT"] == "2026-06-22T12:00:00+00:00"
    assert read["HERMES_CRON_ATTEMPT"] == "1"
    assert read == child_environment(SESSION)


def test_a_bound_session_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HERMES_SESSION_PLATFORM", "discord")
    monkeypatch.setenv("HERMES_SESSION_CHAT_ID", "env")
    assert get_session_env("HERMES_SESSION_PLATFORM") == "discord"
    with bound(Session(origin=Origin(platform="telegram"))):
        assert get_session_env("HERMES_SESSION_PLATFORM") == "telegram"
        assert get_session_env("HERMES_SESSION_CHAT_ID") == ""
    with bound(Session()):
        assert get_session_env("HERMES_SESSION_PLATFORM", "default") == ""
    assert get_session_env("HERMES_SESSION_PLATFORM") == "discord"


def test_other_names_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMAPPED_VAR", "v")
    with bound(SESSION):
        assert get_session_env("UNMAPPED_VAR") == "v"
        assert get_session_env("NOT_SET_ANYWHERE", "fallback") == "fallback"
    assert get_session_env("HERMES_SESSION_KEY", "fallback") == "fallback"


@pytest.mark.parametrize("case", cases("session.env"), ids=lambda c: str(c["input"])[:60])
def test_variables_are_read_as_hermes_records_it(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in case["input"]["environ"].items():
        monkeypatch.setenv(name, value)

    results: list[str | None] = []
    with ExitStack() as sessions:
        for step in case["input"]["steps"]:
            if "get" in step:
                results.append(get_session_env(step["get"]))
                continue
            origin = Origin(**step.get("set", {}))
            sessions.enter_context(bound(Session(origin=origin)))
            results.append(None)
    assert results == case["expected"]["results"]


def test_threads_see_the_session_only_with_a_copied_context() -> None:
    with bound(SESSION), ThreadPoolExecutor(1) as pool:
        context = contextvars.copy_context()
        assert pool.submit(current_session).result() is None
        assert pool.submit(context.run, current_session).result() == SESSION
    assert current_session() is None


def test_concurrent_sessions_never_see_each_other() -> None:
    barrier = threading.Barrier(8)

    def run(number: int) -> list[str]:
        session = Session(origin=Origin(chat_id=str(number)))
        with bound(session):
            barrier.wait(10)
            first = get_session_env("HERMES_SESSION_CHAT_ID")
            barrier.wait(10)
            return [first, get_session_env("HERMES_SESSION_CHAT_ID")]

    before = dict(os.environ)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(8))) == [[str(n), str(n)] for n in range(8)]
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (None, "not an object"),
        ("x", "not an object"),
        ({}, "no version"),
        ({"version": "1"}, "no version"),
        ({"version": 3, "session": {}}, "upgrade the worker"),
        ({"version": 1}, "header is invalid"),
        ({"version": 1, "session": {"origin": {"platform": 5}}}, "header is invalid"),
        ({"version": 1, "session": {"job_id": "x" * MAX_HEADER_BYTES}}, "larger than"),
    ],
)
def test_an_invalid_header_is_refused_with_the_reason(header: Any, why: str) -> None:
    with pytest.raises(SessionError, match=why):
        from_header(header)


def test_a_session_too_large_for_a_header_is_refused_when_written() -> None:
    with pytest.raises(SessionError, match="shorten the names"):
        to_header(Session(origin=Origin(chat_name="x" * MAX_HEADER_BYTES)))


@pytest.mark.parametrize(
    ("deliver", "target"),
    [
        ("local", Target()),
        ("origin", Target(platform="telegram", chat_id="-1001", thread_id="17585")),
        ("telegram:-7:8", Target(platform="telegram", chat_id="-7", thread_id="8")),
        ("discord:#eng, origin", Target(platform="discord", chat_id="#eng")),
        ("slack", Target(platform="slack")),
        ("telegram", Target(platform="telegram", chat_id="-1001", thread_id="17585")),
        ("matrix:!room:server", Target(platform="matrix", chat_id="!room:server")),
        ("signal:group:abc", Target(platform="signal", chat_id="group:abc")),
        ("ops", Target()),
        ("local, ops, file://a.md, json://h/t, slack:C1", Target(platform="slack", chat_id="C1")),
        ("all", Target()),
        ("all, slack:C1", Target()),
    ],
)
def test_the_session_names_the_first_chat_that_output_goes_to(deliver: str, target: Target) -> None:
    assert delivers_to(deliver, TELEGRAM) == target


@pytest.mark.parametrize("origin", [None, Origin(platform="telegram")])
def test_an_origin_without_a_chat_gives_no_target(origin: Origin | None) -> None:
    assert delivers_to("origin, slack:C1", origin) == Target()


@pytest.mark.parametrize("case", cases("delivery.targets"), ids=lambda c: str(c["input"]))
def test_the_sessions_chat_is_the_first_target_of_hermes(case: dict[str, Any]) -> None:
    job = case["input"]["job"]
    origin = Origin(**job["origin"]) if job.get("origin") else None
    found = delivers_to(job["deliver"], origin)
    first: dict[str, Any] = next(iter(case["expected"]["targets"]), {})
    if first.get("chat_id") in case["input"]["env"].values():
        # Only the worker that delivers knows its home channels, so the beat names no chat.
        assert (found.chat_id, found.thread_id) == ("", None)
    else:
        assert found == Target(**first)


def test_a_job_without_a_session_hides_its_origin_but_not_its_target() -> None:
    for spec, default in (
        (a_spec(origin=TELEGRAM, deliver="origin", session="none"), SessionSource.ORIGIN),
        (SPEC, SessionSource.NONE),
    ):
        read = session_of(spec, run_id="r", due_ms=0, default=default).variables()
        for name, value in read.items():
            if name.startswith(("HERMES_SESSION_", "HERMES_UI_")):
                assert value == "", name
        assert read["HERMES_CRON_AUTO_DELIVER_CHAT_ID"] == "-1001"
        assert read["HERMES_CRON_SESSION"] == "1"
    own = a_spec(origin=TELEGRAM, session="origin")
    kept = session_of(own, run_id="r", due_ms=0, default=SessionSource.NONE)
    assert kept.origin == TELEGRAM


def test_a_session_that_is_neither_origin_nor_none_is_refused() -> None:
    with pytest.raises(JobError, match="must be 'origin' or 'none'"):
        a_spec(session="mine")


def test_a_run_supports_no_asynchronous_delivery() -> None:
    assert async_delivery_supported()
    with bound(SESSION):
        assert not async_delivery_supported()
        assert get_session_env("HERMES_SESSION_ASYNC_DELIVERY", "1") == ""


def test_the_session_has_every_variable_of_hermes() -> None:
    names = set(SESSION.variables())
    assert {
        *(f"HERMES_SESSION_{name}" for name in (
            "PLATFORM", "SOURCE", "CHAT_ID", "CHAT_NAME", "THREAD_ID", "USER_ID", "USER_NAME",
            "KEY", "ID", "MESSAGE_ID", "PROFILE", "ASYNC_DELIVERY")),
        "HERMES_UI_SESSION_ID",
        *(f"HERMES_CRON_AUTO_DELIVER_{name}" for name in ("PLATFORM", "CHAT_ID", "THREAD_ID")),
        *(f"HERMES_CRON_{name}" for name in ("SESSION", "JOB_ID", "RUN_ID", "DUE_AT", "ATTEMPT")),
    } == names  # fmt: skip


@pytest.mark.parametrize("case", cases("session.env@main"), ids=lambda c: str(c["input"])[:60])
def test_variables_are_read_by_the_newest_rules_of_hermes(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, expected = case["input"], case["expected"]
    name = "HERMES_SESSION_PLATFORM"
    if "nothing_set" in given:
        assert get_session_env(name, given["default"]) == expected["read"]
    elif "steps" in given:
        for variable, value in given["os.environ"].items():
            monkeypatch.setenv(variable, value)
        reads = [get_session_env(name)]
        with bound(Session(origin=Origin(platform="telegram"))):
            reads.append(get_session_env(name))
        with bound(Session()):
            reads.append(get_session_env(name))
        assert reads == expected["reads"]
    else:
        before = dict(os.environ)
        origin = Origin(**{key: value or "" for key, value in given["set"].items()})
        with bound(Session(origin=origin)):
            for variable, value in expected["read"].items():
                assert get_session_env(variable, "default") == value
        assert dict(os.environ) == before


def test_concurrent_runs_read_their_own_variables_as_recorded() -> None:
    (case,) = cases("session.isolation")
    barrier = threading.Barrier(len(case["input"]["jobs"]))

    def run(job: dict[str, str]) -> tuple[str, list[str]]:
        with bound(Session(origin=Origin(**job))):
            barrier.wait(10)
            names = ("HERMES_SESSION_PLATFORM", "HERMES_SESSION_CHAT_ID")
            return job["chat_id"], [get_session_env(name) for name in names]

    with ThreadPoolExecutor(len(case["input"]["jobs"])) as pool:
        assert dict(pool.map(run, case["input"]["jobs"])) == case["expected"]


def test_tasks_of_one_event_loop_read_their_own_session() -> None:
    # The two cases of `session.isolation@main`.
    async def task(key: str, *, begin: asyncio.Event, end: asyncio.Event) -> tuple[str, str]:
        await begin.wait()
        with bound(Session(origin=Origin(session_key=key))):
            end.set()
            await asyncio.sleep(0)
            inside = await asyncio.to_thread(get_session_env, "HERMES_SESSION_KEY")
            return get_session_env("HERMES_SESSION_KEY"), inside

    async def both() -> list[tuple[str, str]]:
        first, second = asyncio.Event(), asyncio.Event()
        first.set()
        tasks = (
            task("session-A", begin=first, end=second),
            task("session-B", begin=second, end=first),
        )
        return list(await asyncio.gather(*tasks))

    assert len(cases("session.isolation@main")) == 2
    assert asyncio.run(both()) == [("session-A",) * 2, ("session-B",) * 2]


@pytest.mark.parametrize(
    ("header", "run_id"),
    [
        ({"session": {"run_id": "r"}, "message": "r.2"}, "r"),
        ({"session": {"run_id": "r"}, "message": "r"}, None),
        # A header of an older program: there the run's message has the run's own id.
        ({"session": {"run_id": "r.2"}}, "r.2"),
        ({"session": {"run_id": "r"}}, None),
        ({"session": {}, "message": "r.2"}, None),
        ({"session": {"run_id": 5}, "message": "r.2"}, None),
        ({"message": "r.2"}, None),
        (None, None),
    ],
)
def test_a_message_carries_a_run_only_if_its_header_names_the_message(
    header: object, run_id: str | None
) -> None:
    assert run_carried_by(header, message_id="r.2") == run_id
