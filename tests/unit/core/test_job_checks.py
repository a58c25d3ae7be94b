"""The checks of a job: the recorded rules of Hermes, and our own rules if they differ."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest

from hermes_celery.core.field_checks import checked_script
from hermes_celery.core.field_texts import repeat
from hermes_celery.core.job import Job, JobRequest, is_job_id, new_job_id
from hermes_celery.core.job_checks import define, redefine
from hermes_celery.errors import HermesCeleryError, JobError
from hermes_celery.instant import iso
from hermes_celery.running.script import check_local_files
from tests.support import DATA, NOON, a_spec, cases

#: Recorded cases in which we differ from Hermes on purpose, with the reason.
_DIFFERENT = {
    "1h": "a bare duration recurs, as in Hermes' newest grammar; `in 1h` is the one-shot",
}


def _label(case: dict[str, Any]) -> str:
    given = case["input"].get("kwargs", case["input"])
    return ",".join(f"{key}={str(value)[:24]}" for key, value in given.items())


@pytest.mark.parametrize("case", cases("job.create"), ids=_label)
def test_a_job_is_created_as_hermes_creates_it(
    case: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    given = dict(case["input"]["kwargs"])
    if given["schedule"] in _DIFFERENT:
        request.applymarker(pytest.mark.xfail(reason=_DIFFERENT[given["schedule"]], strict=True))
    if "skill" in given:
        given["skills"] = [given.pop("skill")]
    now = datetime.fromisoformat(case["input"]["now"])

    def create() -> Job:
        spec, first = define(
            JobRequest(**given), job_id=new_job_id(), now=now, default_timezone="UTC"
        )
        # The recorded directories exist on this disk, the recorded scripts do not.
        check_local_files(spec if spec.script is None else a_spec(), scripts_dir=DATA)
        return Job(spec=spec, next_run_at=first)

    if "error" in case["expected"]:
        with pytest.raises(JobError) as error:
            create()
        assert str(error.value) == case["expected"]["error"]
        return
    created = create().as_json()
    for name, value in case["expected"]["job"].items():
        if name == "schedule":
            value = {key: value[key] for key in ("kind", "run_at") if key in value}
            assert created["schedule"].items() >= value.items()
        else:
            assert created[name] == value, name


@pytest.mark.parametrize("case", cases("job.repeat_parse@main"), ids=_label)
def test_repeat_is_read_as_hermes_reads_it(case: dict[str, Any]) -> None:
    text = case["input"]["repeat"]
    if "error_contains" in case["expected"]:
        with pytest.raises(JobError, match=case["expected"]["error_contains"]):
            repeat(text)
    else:
        assert repeat(text) == case["expected"]["times"]


@pytest.mark.parametrize("case", cases("safety.script_path_api"), ids=_label)
def test_a_script_path_is_checked_as_hermes_checks_it(case: dict[str, Any]) -> None:
    if case["expected"]["error"] is None:
        checked_script(case["input"]["script"])
        return
    with pytest.raises(HermesCeleryError) as error:
        checked_script(case["input"]["script"])
    assert str(error.value) == case["expected"]["error"]


def test_ids_are_twelve_hex_digits() -> None:
    assert all(is_job_id(new_job_id()) for _ in range(100))
    for text in ("../../x", "AAAAAAAAAAAA", "aaaaaaaaaaa", "aaaaaaaaaaaaa", "", "aaaaaaaaaaaa\n"):
        assert not is_job_id(text)


def test_json_has_the_stored_field_names_of_hermes() -> None:
    record = Job(spec=a_spec("0 9 * * *"), next_run_at=NOON).as_json()
    expected = {
        "id", "name", "prompt", "skills", "skill", "model", "provider", "base_url", "script",
        "no_agent", "context_from", "schedule", "schedule_display", "repeat", "enabled", "state",
        "paused_at", "paused_reason", "created_at", "next_run_at", "last_run_at", "last_status",
        "last_error", "last_delivery_error", "deliver", "origin", "enabled_toolsets", "workdir",
    }  # fmt: skip
    assert expected <= set(record)
    assert record["schedule"]["expr"] == "0 9 * * *"
    assert record["created_at"] == iso(NOON)


def test_an_error_names_what_was_given_what_is_wrong_and_what_to_do() -> None:
    with pytest.raises(JobError) as error:
        a_spec(name="n" * 10_000)
    assert re.search(r"10,000 characters, more than 200.*Give a shorter", str(error.value))


@pytest.mark.parametrize(
    ("written", "display"),
    [
        ("every 1h", "every 1h"),
        ("every  90m", "every 90m"),
        ("every 2 hours", "every 2 hours"),
        (timedelta(hours=1), "every 1h"),
        ("weekdays at 9am", "weekdays at 9am"),
    ],
)
def test_a_schedule_is_shown_as_it_was_written(written: Any, display: str) -> None:
    job = Job(spec=a_spec(written))

    assert job.as_json()["schedule_display"] == display
    # A change of the time zone keeps the text.
    zoned = redefine(job.spec, {"timezone": "Asia/Tokyo"}, now=NOON, default_timezone="UTC")
    assert zoned.schedule_display == display


def test_an_interval_is_exported_in_hermes_spelling() -> None:
    assert a_spec("every 1h").compiled().to_hermes()["display"] == "every 60m"


@pytest.mark.parametrize(
    "bound",
    [
        {"start": NOON + timedelta(days=2)},
        {"end": NOON + timedelta(days=2)},
        {"exclude": (f"{NOON + timedelta(days=1):%Y-%m-%d}",)},
        {"jitter_seconds": 600},
    ],
    ids=lambda bound: next(iter(bound)),
)
def test_each_bound_alone_changes_the_planned_instants(bound: dict[str, Any]) -> None:
    request = JobRequest(schedule="0 9 * * *", prompt="x", **bound)
    bounded, _ = define(request, job_id="b" * 12, now=NOON, default_timezone="UTC")
    plain, _ = define(
        JobRequest(schedule="0 9 * * *", prompt="x"),
        job_id="b" * 12, now=NOON, default_timezone="UTC",
    )  # fmt: skip
    week = (NOON, NOON + timedelta(days=7))

    assert bounded.compiled().between(*week) != plain.compiled().between(*week)
