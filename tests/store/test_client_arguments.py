"""The Python API refuses a wrong argument in one sentence that names it, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from inspect import isfunction
from typing import Any

import pytest

from hermes_celery.client import Client
from hermes_celery.core.job import Job, JobRequest, JobState
from hermes_celery.core.run import RunState
from hermes_celery.errors import Conflict, JobError, JobNotFound, RunNotFound, ScheduleError
from tests.support import Store

_NAIVE = datetime.fromisoformat("2026-06-22T10:00")


class _WithoutOffset(tzinfo):
    """A zone that does not say its offset, so that Python takes its datetimes for naive."""

    def utcoffset(self, when: datetime | None) -> None:
        return None

    def dst(self, when: datetime | None) -> None:
        return None

    def tzname(self, when: datetime | None) -> str:
        return "none"


@pytest.fixture
def job(store: Store) -> str:
    """Add a job named `x` and return its id."""
    return store.cron.add(JobRequest(schedule="every 1h", prompt="p", name="x")).id


@pytest.mark.parametrize(
    "seconds",
    [float("nan"), float("inf"), 10**400, None, "x", "5", True, timedelta(seconds=1), 10**5000],
    ids=[str(number) for number in range(9)],
)
def test_waiting_for_no_finite_number_of_seconds_is_refused(
    store: Store, job: str, seconds: Any
) -> None:
    with pytest.raises(JobError, match=r"^seconds is .*; it must be a finite number$"):
        store.cron.wait(store.cron.run(job), seconds=seconds)


@pytest.mark.parametrize("seconds", [-1, -1e300, 0])
def test_waiting_for_no_time_returns_the_run_as_it_stands(
    store: Store, job: str, seconds: float
) -> None:
    assert store.cron.wait(store.cron.run(job), seconds=seconds).state is RunState.QUEUED


@pytest.mark.parametrize("state", ["wat", "", 5, RunState.QUEUED.value.upper(), ["queued"]])
def test_a_state_that_no_run_or_job_has_is_refused_with_the_words(store: Store, state: Any) -> None:
    runs_words = "one of queued, running, .*failed"
    with pytest.raises(JobError, match=rf"^state is .*; it must be {runs_words}"):
        store.cron.latest_runs(state=state)
    with pytest.raises(JobError, match=r"must be one of scheduled, paused, completed, failed$"):
        store.cron.find_jobs(state=state)


def test_the_word_of_a_state_means_the_state(store: Store, job: str) -> None:
    run_id = store.cron.run(job)
    store.cron.pause(job)

    assert [run.id for run in store.cron.latest_runs(state="queued")] == [run_id]
    assert store.cron.latest_runs(state="failed") == []
    assert [one.id for one in store.cron.find_jobs(state="paused")] == [job]
    assert [one.id for one in store.cron.find_jobs(state=JobState.PAUSED)] == [job]
    # What people see as `failed` is stored as `error`.
    assert list(store.cron.find_jobs(state="failed")) == []


@pytest.mark.parametrize("limit", [0, -1, 2.5, None, "x", True, 10_001, float("nan")])
def test_a_limit_that_the_command_line_refuses_is_refused(store: Store, limit: Any) -> None:
    with pytest.raises(JobError, match=r"^limit is .*a whole number from 1 to 10,000$"):
        store.cron.latest_runs(limit=limit)


def test_a_run_of_another_job_is_named_as_such(store: Store, job: str) -> None:
    other = store.cron.add(JobRequest(schedule="every 1h", prompt="p", name="other")).id
    run_id = store.cron.run(other)

    with pytest.raises(RunNotFound, match=f"^run {run_id} is of job {other}, not of job {job}"):
        store.cron.latest_runs("x", after=run_id)
    for unknown in (f"{other}-20200101T000000Z", "wat"):
        with pytest.raises(RunNotFound, match=f"^no run has the id '{unknown}'"):
            store.cron.latest_runs("x", after=unknown)


def _instants() -> list[tuple[Any, str]]:
    return [
        (_NAIVE, "is 2026-06-22T10:00:00, which has no time zone; give an aware datetime"),
        (_NAIVE.replace(tzinfo=_WithoutOffset()), "has no time zone"),
        ("2026-06-22", "is '2026-06-22'; it must be an aware datetime"),
        (0, "is 0; it must be an aware datetime"),
    ]


_TAKES_INSTANTS: dict[str, Callable[[Store, Any], object]] = {
    "since": lambda store, given: store.cron.latest_runs(since=given),
    "start": lambda store, given: store.cron.backfill("x", start=given, end=store.cron.now),
    "end": lambda store, given: store.cron.backfill("x", start=store.cron.now, end=given),
}


@pytest.mark.parametrize(("given", "why"), _instants(), ids=["naive", "no offset", "text", "0"])
@pytest.mark.parametrize("name", _TAKES_INSTANTS)
@pytest.mark.usefixtures("job")
def test_an_instant_without_a_time_zone_is_refused(
    store: Store, name: str, given: Any, why: str
) -> None:
    with pytest.raises(ScheduleError, match=f"^{name} is ") as error:
        _TAKES_INSTANTS[name](store, given)
    assert why in str(error.value)
    assert store.cron.latest_runs() == []


@pytest.mark.usefixtures("job")
def test_an_instant_of_any_zone_is_taken(store: Store) -> None:
    east = timezone(timedelta(hours=2))
    now = store.cron.now.astimezone(east)
    assert store.cron.latest_runs(since=now) == []
    assert store.cron.backfill("x", start=now.astimezone(UTC), end=now) == []


@pytest.mark.parametrize("per_minute", [0, None, "x", float("nan"), 60_001])
@pytest.mark.usefixtures("job")
def test_a_wrong_pace_of_a_backfill_is_refused(store: Store, per_minute: Any) -> None:
    now = store.cron.now
    with pytest.raises(JobError, match=r"^per_minute is .*a whole number from 1 to 60,000$"):
        store.cron.backfill("x", start=now, end=now, per_minute=per_minute)


_HALF = "\ud800"
#: A byte that is not UTF-8, as the command line passes it.
_BYTE = "\udcff"
_TAKES_A_REFERENCE: dict[str, Callable[[Store, Any], object]] = {
    "show": lambda store, given: store.cron.show(given),
    "edit": lambda store, given: store.cron.edit(given, {"prompt": "q"}),
    "pause": lambda store, given: store.cron.pause(given),
    "resume": lambda store, given: store.cron.resume(given),
    "remove": lambda store, given: store.cron.remove(given),
    "run": lambda store, given: store.cron.run(given),
    "latest_runs": lambda store, given: store.cron.latest_runs(given),
    "find_jobs": lambda store, given: store.cron.find_jobs(after=given),
    "backfill": lambda store, given: store.cron.backfill(
        given, start=store.cron.now, end=store.cron.now
    ),
}


@pytest.mark.parametrize("call", _TAKES_A_REFERENCE)
@pytest.mark.usefixtures("job")
def test_a_text_that_no_name_can_be_is_the_reference_of_no_job(store: Store, call: str) -> None:
    for given in (_HALF, f"x{_HALF}", _BYTE):
        with pytest.raises(JobNotFound, match=r"^no job has the id or name 'x?\\ud"):
            _TAKES_A_REFERENCE[call](store, given)


@pytest.mark.parametrize("call", _TAKES_A_REFERENCE)
@pytest.mark.parametrize("given", [5, b"x", ["x"], True])
@pytest.mark.usefixtures("job")
def test_a_reference_that_is_no_text_is_refused(store: Store, call: str, given: Any) -> None:
    with pytest.raises(JobError, match=r"^(reference|after) is .*; it must be a text$"):
        _TAKES_A_REFERENCE[call](store, given)


@pytest.mark.usefixtures("job")
def test_a_long_reference_is_cut_in_the_message(store: Store) -> None:
    with pytest.raises(JobNotFound) as error:
        store.cron.show("y" * 10_000)
    assert len(str(error.value)) < 250
    with pytest.raises(RunNotFound) as unknown:
        store.cron.show_run("y" * 10_000)
    assert len(str(unknown.value)) < 250


@pytest.mark.usefixtures("job")
def test_a_prefix_that_no_name_can_have_finds_nothing(store: Store) -> None:
    for given in (_HALF, _BYTE):
        assert list(store.cron.find_jobs(name=given)) == []
    assert [one.name for one in store.cron.find_jobs(name="X") if isinstance(one, Job)] == ["x"]


@pytest.mark.parametrize("given", [5, b"x", None])
def test_a_prefix_that_is_no_text_is_refused(store: Store, given: Any) -> None:
    for search in (store.cron.find_jobs, store.cron.refusals):
        with pytest.raises(JobError, match=r"^name is .*; it must be a text$"):
            search(name=given)


def test_an_id_that_no_run_can_have_is_the_id_of_no_run(store: Store) -> None:
    for given in (_HALF, _BYTE):
        for find in (store.cron.show_run, store.cron.output, store.cron.cancel):
            with pytest.raises(RunNotFound, match=r"^no run has the id '\\ud"):
                find(given)
    with pytest.raises(RunNotFound, match=r"^no run has the id '\\ud"):
        store.cron.latest_runs(after=_HALF)


@pytest.mark.parametrize("given", [5, b"x"])
def test_an_id_of_a_run_that_is_no_text_is_refused(store: Store, job: str, given: Any) -> None:
    for find in (store.cron.show_run, store.cron.output, store.cron.cancel):
        with pytest.raises(JobError, match=r"^run_id is .*; it must be a text$"):
            find(given)
    for reference in (None, job):
        with pytest.raises(JobError, match=r"^after is .*; it must be a text$"):
            store.cron.latest_runs(reference, after=given)


_STORES_A_TEXT: dict[str, Callable[[Store, Any], object]] = {
    "key": lambda store, given: store.cron.run("x", key=given),
    "reason": lambda store, given: store.cron.pause("x", reason=given),
    "note": lambda store, given: store.cron.pause_all(note=given),
}


@pytest.mark.parametrize("name", _STORES_A_TEXT)
@pytest.mark.parametrize(
    ("given", "why"),
    [
        (5, "is 5; it must be a text"),
        (b"x", "is b'x'; it must be a text"),
        (_HALF, "contains '\\ud800', which is half of a character"),
        (f"x{_BYTE}", "contains '\\udcff', which is half of a character"),
    ],
    ids=["number", "bytes", "half", "byte"],
)
@pytest.mark.usefixtures("job")
def test_a_text_that_cannot_be_stored_is_refused_before_anything_is_written(
    store: Store, name: str, given: Any, why: str
) -> None:
    with pytest.raises(JobError) as error:
        _STORES_A_TEXT[name](store, given)
    assert str(error.value).startswith(f"{name} {why}")
    assert store.cron.latest_runs() == []
    assert store.cron.show("x").state is JobState.SCHEDULED
    # Only a namespace that is paused has something to resume.
    assert not store.cron.resume_all()


def test_the_reason_of_a_cancel_is_checked(store: Store, job: str) -> None:
    run_id = store.cron.run(job)
    with pytest.raises(JobError, match=r"^reason contains '\\ud800'"):
        store.cron.cancel(run_id, reason=_HALF)
    assert store.cron.show_run(run_id).state is RunState.QUEUED


@pytest.mark.usefixtures("job")
def test_a_key_has_at_most_1000_characters(store: Store) -> None:
    longest = "k" * 1000
    assert store.cron.run("x", key=longest) == store.cron.run("x", key=longest)
    with pytest.raises(JobError) as error:
        store.cron.run("x", key="k" * 100_000)
    assert str(error.value).startswith("key has 100,000 characters, more than 1,000; it begins 'kk")
    assert len(str(error.value)) < 250
    assert len(store.cron.latest_runs()) == 1


@pytest.mark.usefixtures("job")
def test_a_value_of_another_class_is_refused(store: Store) -> None:
    given: Any = {"schedule": "every 1h", "prompt": "p"}
    number: Any = 5
    nothing: Any = None
    good = JobRequest(schedule="every 1h", prompt="p", name="good")
    with pytest.raises(JobError, match=r"^request is \{.*\}; it must be a JobRequest$"):
        store.cron.add(given)
    with pytest.raises(JobError, match=r"^requests\[1\] is \{.*\}; it must be a JobRequest$"):
        store.cron.add_many([good, given])
    with pytest.raises(JobError, match=r"^requests is 5; it must be an Iterable$"):
        store.cron.add_many(number)
    with pytest.raises(JobError, match=r"^changes is None; it must be a Mapping$"):
        store.cron.edit("x", nothing)
    assert [one.name for one in store.cron.all_jobs()] == ["x"]


_TAKES_A_BOOL: dict[str, Callable[[Store, str, Any], object]] = {
    "add paused": lambda store, _, given: store.cron.add(_request(), paused=given),
    "add check_files": lambda store, _, given: store.cron.add(_request(), check_files=given),
    "add_many paused": lambda store, _, given: store.cron.add_many([_request()], paused=given),
    "add_many check_files": lambda store, _, given: store.cron.add_many([], check_files=given),
    "edit check_files": lambda store, job, given: store.cron.edit(
        job, {"prompt": "q"}, check_files=given
    ),
    "remove declared": lambda store, job, given: store.cron.remove(job, declared=given),
    "backfill one_by_one": lambda store, job, given: store.cron.backfill(
        job, start=store.cron.now - timedelta(hours=3), end=store.cron.now, one_by_one=given
    ),
}


def _request() -> JobRequest:
    return JobRequest(schedule="every 1h", prompt="p", name="new")


def test_every_argument_that_is_declared_a_bool_is_tested() -> None:
    declared = {
        f"{method} {name}"
        for method, function in vars(Client).items()
        if isfunction(function) and not method.startswith("_")
        for name, kind in function.__annotations__.items()
        if kind == "bool" and name != "return"
    }
    assert declared == {*_TAKES_A_BOOL}


@pytest.mark.parametrize("call", _TAKES_A_BOOL)
@pytest.mark.parametrize("given", ["no", "false", "", float("nan"), [], 0, 1, None])
def test_only_a_bool_is_taken_for_a_bool(store: Store, job: str, call: str, given: Any) -> None:
    name = call.split()[1]
    with pytest.raises(JobError, match=rf"^{name} is .*; it must be True or False$"):
        _TAKES_A_BOOL[call](store, job, given)
    assert [(one.name, one.revision) for one in store.cron.all_jobs()] == [("x", 1)]
    assert store.cron.latest_runs() == []


@pytest.mark.parametrize(
    "given",
    [float("nan"), "1", -1, 0, True, 1.0, [], 2**53 + 1, 10**5000],
    ids=[str(number) for number in range(9)],
)
def test_a_revision_that_is_no_whole_number_is_no_conflict(
    store: Store, job: str, given: Any
) -> None:
    with pytest.raises(JobError, match=r"^expected_revision is .*a whole number from 1 to "):
        store.cron.edit(job, {"prompt": "q"}, expected_revision=given)
    assert store.cron.show(job).revision == 1


def test_an_edit_without_an_expected_revision_is_made(store: Store, job: str) -> None:
    assert store.cron.edit(job, {"prompt": "q"}, expected_revision=None).revision == 2
    assert store.cron.edit(job, {"prompt": "r"}, expected_revision=2).revision == 3
    with pytest.raises(Conflict):
        store.cron.edit(job, {"prompt": "s"}, expected_revision=2)


@pytest.mark.parametrize(
    ("key", "quoted"),
    [(_HALF, "\\ud800"), (_BYTE, "\\udcff"), ("a\nb", "a\\nb"), (b"x", "b'x'"), ("é", "é")],
    ids=["half", "byte", "line end", "bytes", "printable"],
)
def test_a_message_that_repeats_a_key_can_be_printed(
    store: Store, job: str, key: Any, quoted: str
) -> None:
    with pytest.raises(JobError) as error:
        store.cron.edit(job, {key: 1})
    assert str(error.value).startswith(f"a job has no field {quoted}; fields are ")
    assert str(error.value).isprintable()
