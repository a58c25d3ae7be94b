"""The schedules of the bakery: what is declared, when it runs, and that it works."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hermes_celery import RunState, parse_schedule
from hermes_celery.errors import ScheduleError

import bakery

BERLIN = ZoneInfo("Europe/Berlin")
SATURDAY = datetime(2027, 3, 27, 12, tzinfo=BERLIN)


# Without a server: what the code declares.


def test_nothing_is_refused():
    assert bakery.cron.refused() == {}


def test_the_project_has_these_jobs():
    assert set(bakery.cron.declared()) == {"rolls", "christmas-stollen", "flour"}


def test_rolls_are_baked_with_twelve_trays():
    task = bakery.cron.declared()["rolls"].spec.task
    assert (task.name, task.args, task.kwargs) == ("bakery.bake", ["rolls"], {"trays": 12})


def test_stollen_is_tried_again():
    assert bakery.cron.declared()["christmas-stollen"].spec.policy.retries == 2


# Without a server: when it runs.


def test_no_rolls_on_sunday():
    rolls = bakery.cron.declared(now=SATURDAY)["rolls"]
    assert rolls.next_run_at == datetime(2027, 3, 29, 4, tzinfo=BERLIN)


def test_flour_is_ordered_once_in_each_night_also_when_clocks_change():
    flour = bakery.cron.declared(now=SATURDAY)["flour"].spec.compiled()
    sunday = datetime(2027, 3, 28, tzinfo=BERLIN), datetime(2027, 3, 28, 23, tzinfo=BERLIN)
    # 02:30 does not exist on that day: it runs when the clock jumps to 03:00.
    assert flour.between(*sunday) == (datetime(2027, 3, 28, 1, tzinfo=UTC),)


def test_a_slip_in_a_schedule_is_found():
    with pytest.raises(ScheduleError, match="minute 60 is outside 0-59"):
        parse_schedule("60 4 * * *")


# With a server, a beat and a worker: that it works.


def test_a_run_bakes_rolls(cron):
    run = cron.client.wait(cron.client.run("rolls"), seconds=30)
    assert run.state is RunState.SUCCEEDED, run.why
    assert cron.client.output(run.id) == "12 trays of rolls"


def test_a_paused_job_stays_paused_until_somebody_resumes_it(cron):
    cron.client.pause("flour", reason="the store is full")
    assert cron.client.show("flour").paused_reason == "the store is full"
    cron.client.resume("flour")
    assert cron.client.show("flour").next_run_at is not None
