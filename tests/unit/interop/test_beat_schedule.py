"""The entries of `beat_schedule` become jobs with the same meaning as in Celery, or are refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import crontab
from kombu.entity import Queue
from tzlocal import get_localzone_name

from hermes_celery import Cron
from hermes_celery.core.job import JobRequest, JobSpec
from hermes_celery.core.job_checks import define
from hermes_celery.core.task_call import live_call
from hermes_celery.interop.beat_schedule import declared_of, requests_of, shown_name

NOON = datetime(2026, 6, 22, 12, tzinfo=UTC)


def an_app(**conf: Any) -> Celery:
    app = Celery("shop", broker="redis://nowhere", set_as_current=False)
    app.conf.update(conf)
    return app


def taken(entry: Any, **conf: Any) -> JobSpec:
    """Return the job of an entry."""
    requests, refused = requests_of(an_app(beat_schedule={"x": entry}, **conf))
    assert not refused
    return spec_of(requests["x"])


def spec_of(request: JobRequest) -> JobSpec:
    spec, _ = define(request, job_id="a" * 12, now=NOON, default_timezone="UTC")
    return spec


def refusal(entry: Any, **conf: Any) -> str:
    """Return why an entry is refused; a good entry beside it must be accepted."""
    good = {"task": "shop.good", "schedule": 1}
    requests, refused = requests_of(an_app(beat_schedule={"x": entry, "good": good}, **conf))
    if not refused:
        try:
            spec_of(requests["x"])
        except ValueError as error:
            return str(error)
    assert "good" in requests or conf
    return refused["x"]


def test_an_entry_keeps_its_schedule_arguments_and_options() -> None:
    spec = taken(
        {
            "task": "shop.report",
            "schedule": crontab(minute=0, hour="22-3"),
            "args": (1, date(2024, 1, 2)),
            "kwargs": {"full": True},
            "options": {
                "queue": Queue("{celery}"),
                "priority": 10,
                "expires": 60,
                "headers": {"tenant": "a"},
            },
            "last_run_at": NOON,
        },
        timezone="Europe/Berlin",
    )
    assert (spec.schedule, spec.timezone) == ("0 0-3,22,23 * * *", "Europe/Berlin")
    assert (spec.queue, spec.priority, spec.name) == ("{celery}", 10, "x")
    assert spec.task is not None
    call = live_call(spec.task)
    assert (call.name, call.args) == ("shop.report", [1, date(2024, 1, 2)])
    assert call.kwargs == {"full": True}
    assert call.options == {"expires": 60, "headers": {"tenant": "a"}}


def test_a_schedule_entry_object_is_accepted_like_a_dict() -> None:
    app = an_app()
    app.conf.beat_schedule = {
        "x": ScheduleEntry(name="x", task="shop.a", schedule=30.0, args=(1,), app=app)
    }
    requests, _ = requests_of(app)
    spec = spec_of(requests["x"])
    assert (spec.schedule, spec.task and spec.task.args) == ("every 30s", [1])


def test_a_countdown_is_part_of_the_schedule() -> None:
    entry = {"task": "shop.a", "schedule": crontab(minute=0, hour=9)}
    spec = taken({**entry, "options": {"countdown": 10, "expires": 60}})
    assert spec.schedule == "0 9 * * * delayed 10s"
    assert spec.compiled().next_after(NOON) == datetime(2026, 6, 23, 9, 0, 10, tzinfo=UTC)
    # Celery counts `expires` from the call of apply_async, before the countdown.
    assert spec.task is not None
    assert spec.task.options == {"expires": 50}
    assert taken({**entry, "options": {"countdown": 0}}).schedule == "0 9 * * *"
    app = an_app()
    Cron(app).add("late", "0 9 * * * | 0 12 * * *", task="shop.a", options={"countdown": 0.5})
    declared, _ = declared_of(app, default_timezone="UTC")
    late = spec_of(declared["late"])
    assert late.schedule == "0 9 * * * delayed 0.5s | 0 12 * * * delayed 0.5s"


def test_relative_in_an_entry_means_the_same_as_in_celery() -> None:
    entry = {"task": "shop.a", "schedule": timedelta(hours=1), "relative": True}
    assert taken(entry).schedule == "0 * * * *"
    assert taken({**entry, "schedule": crontab(minute=5)}).schedule == "5 * * * *"


def test_entries_of_add_periodic_task_are_accepted() -> None:
    app = an_app()

    @app.task(name="shop.tell", shared=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def tell(*_: object, **__: object) -> None:
        """Do nothing."""

    @app.on_after_configure.connect  # type: ignore[untyped-decorator]  # Celery has no types
    def add(sender: Celery, **_: object) -> None:
        sender.add_periodic_task(10, tell.s("x" * 500).set(priority=3), name=None)
        sender.add_periodic_task(0.5, tell.si(day=date(2024, 1, 2)), name="day", queue="q")

    app.finalize()
    requests, refused = requests_of(app)
    assert not refused
    (long,) = [request for name, request in requests.items() if name != "day"]
    spec = spec_of(long)
    assert len(spec.name) <= 200
    assert spec.name.startswith("shop.tell('xxx")
    assert spec.priority == 3
    day = spec_of(requests["day"])
    assert (day.schedule, day.queue) == ("every 0.5s", "q")
    assert day.task is not None
    assert live_call(day.task).kwargs == {"day": date(2024, 1, 2)}


def test_long_and_odd_names_are_shortened_and_stay_distinct() -> None:
    assert shown_name("nightly") == "nightly"
    first, second = shown_name("x" * 300 + "1"), shown_name("x" * 300 + "2")
    assert first != second
    assert shown_name("x" * 300 + "1") == first
    assert max(len(shown_name("x" * count)) for count in range(180, 230)) <= 200
    assert shown_name("a\nb").startswith("a b ")
    assert shown_name("a\nb") != shown_name("a\tb")


GOOD = {"task": "shop.a", "schedule": 5}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"schedule": 5}, "has no task; give it one"),
        ({"task": "shop.a"}, "has no schedule"),
        ({}, "has no schedule and no task"),
        ("shop.a", "is a str; make it a dict"),
        ({**GOOD, "taks": 1, "arg": 2}, "has the key taks, arg; known are schedule, task"),
        ({**GOOD, "\ud800": 1}, "has the key \\ud800; known are schedule, task"),
        ({**GOOD, "options": {"hermes": {"\ud800": 1}}}, "option 'hermes' has \\ud800; known"),
        ({**GOOD, "options": {"link": "\ud800"}}, "options['link'] contains '\\ud800', which is"),
        ({**GOOD, "args": "abc"}, "args are 'abc'; give a list, such as ['abc']"),
        ({**GOOD, "args": {1}}, "args are {1}; give a list"),
        ({**GOOD, "args": [{1}]}, "args[0] is a set"),
        ({**GOOD, "kwargs": [1]}, "kwargs are [1]; give a dict"),
        ({**GOOD, "kwargs": {1: 2}}, "kwargs are {1: 2}; give a dict"),
        ({**GOOD, "options": "fast"}, "options are 'fast'"),
        ({**GOOD, "task": 5}, "its task is 5"),
        ({**GOOD, "schedule": "soon"}, "'soon' is not a schedule"),
        ({**GOOD, "schedule": object()}, "is not a schedule; use a text, a crontab"),
        ({**GOOD, "options": {"countdown": "10"}}, "the option countdown is '10'; give a number"),
        ({**GOOD, "options": {"countdown": -1}}, "countdown is -1; give 0.1 s to"),
        (
            {**GOOD, "options": {"countdown": 60, "expires": 30}},
            "expires after 30 s, before its countdown of 60 s",
        ),
        ({**GOOD, "options": {"expires": timedelta(minutes=5)}}, "number of seconds, here 300"),
        ({**GOOD, "options": {"priority": "high"}}, "priority 'high' is not a whole number"),
        ({**GOOD, "options": {"queue": "a b"}}, "queue 'a b' must be"),
        ({**GOOD, "options": {"link": object()}}, "options['link'] is an object"),
    ],
)  # fmt: skip
def test_an_invalid_entry_is_refused_alone(entry: Any, why: str) -> None:
    assert why in refusal(entry)


class Odd:
    """A user's schedule class that raises on every access."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("out of order")

    def __repr__(self) -> str:
        raise RuntimeError("out of order")


def test_an_object_that_raises_on_every_access_fails_only_its_entry() -> None:
    assert "an Odd is not a schedule" in refusal({**GOOD, "schedule": Odd()})
    assert "cannot be read: RuntimeError" in refusal({**GOOD, "task": Odd()})


@pytest.mark.parametrize("entries", [[1], dict, "x"])
def test_a_beat_schedule_that_is_not_a_dict_is_refused(entries: Any) -> None:
    requests, refused = requests_of(an_app(beat_schedule=entries))
    assert not requests
    assert "make it a dict of entries" in refused["app.conf.beat_schedule"]


@pytest.mark.parametrize(
    ("conf", "zone"),
    [
        ({}, "UTC"),
        ({"timezone": "Asia/Tokyo"}, "Asia/Tokyo"),
        ({"timezone": timezone(timedelta(hours=8))}, "+08:00"),
        ({"timezone": "Asia/Tokyo", "enable_utc": False}, "Asia/Tokyo"),
        # Celery then uses the machine's own time zone.
        ({"enable_utc": False}, get_localzone_name()),
    ],
)
def test_entries_use_the_time_zone_of_the_app(conf: dict[str, Any], zone: str) -> None:
    assert taken({"task": "t", "schedule": crontab(hour=9)}, **conf).timezone == zone


def test_an_invalid_app_time_zone_is_reported_for_each_job_that_needs_it() -> None:
    app = an_app(timezone="Mars/Olympus", beat_schedule={"x": GOOD})
    cron = Cron(app)
    cron.add("zoned", "0 9 * * *", task="shop.a", timezone="Asia/Tokyo")
    cron.add("plain", "0 9 * * *", task="shop.a")
    _, refused = requests_of(app)
    assert "app.conf.timezone is 'Mars/Olympus', not a time zone" in refused["x"]
    declared, refused = declared_of(app, default_timezone="UTC")
    assert list(declared) == ["zoned"]
    assert "Mars/Olympus" in refused["plain"]


def test_a_job_request_accepts_the_same_schedules_as_a_declaration() -> None:
    request = JobRequest(
        schedule=crontab(minute=0, hour="22-3"),
        timezone=timezone(timedelta(hours=8)),
        script="a.sh",
        no_agent=True,
    )
    spec = spec_of(request)
    assert (spec.schedule, spec.timezone) == ("0 0-3,22,23 * * *", "+08:00")
    assert spec_of(JobRequest(schedule=0.5, prompt="x")).schedule == "every 0.5s"
    with pytest.raises(ValueError, match="is not a schedule"):
        spec_of(JobRequest(schedule=object(), prompt="x"))
