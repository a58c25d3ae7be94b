"""A duty that fails stops only itself, logs the error and is tried again after growing waits."""

from __future__ import annotations

import logging

import pytest

from hermes_celery.errors import LeaseLost, RecordBroken, StoreError, StoreUnavailable
from hermes_celery.guards.contained_duty import FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS, Duty
from tests.support import HandClock


class Work:
    """A duty's work that fails while `error` is set, and counts its calls."""

    def __init__(self) -> None:
        self.call_count = 0
        self.error: Exception | None = None

    def __call__(self) -> str:
        self.call_count += 1
        if self.error is not None:
            raise self.error
        return "done"


def test_a_working_duty_is_called_each_time(clock: HandClock) -> None:
    work, duty = Work(), Duty("try", clock=clock)
    assert [duty.attempt(work, "not") for _ in range(3)] == ["done"] * 3
    assert duty.waits_seconds == 0


def test_a_failing_duty_waits_twice_as_long_each_time_up_to_a_minute(clock: HandClock) -> None:
    work, duty = Work(), Duty("try", clock=clock)
    work.error = ZeroDivisionError("oops")
    waits = []
    for _ in range(10):
        assert duty.attempt(work, "not") == "not"
        waits.append(duty.waits_seconds)
        call_count = work.call_count
        assert duty.attempt(work, "not") == "not"
        assert work.call_count == call_count, "no call during the wait"
        clock.advance(waits[-1])
    assert waits[:4] == [FIRST_WAIT_SECONDS * 2**n for n in range(4)]
    assert waits[-1] == MOST_WAIT_SECONDS


def test_a_recovered_duty_starts_again_with_the_first_wait(
    clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    work, duty = Work(), Duty("try", clock=clock)
    work.error = ZeroDivisionError("oops")
    for _ in range(5):
        duty.attempt(work, "not")
        clock.advance(duty.waits_seconds)
    work.error = None
    assert duty.attempt(work, "not") == "done"
    assert "duty.recovered" in caplog.text
    work.error = ZeroDivisionError("oops")
    duty.attempt(work, "not")
    assert duty.waits_seconds == FIRST_WAIT_SECONDS


def test_an_unexpected_error_is_logged_with_its_traceback_once_a_minute(
    clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    work, duty = Work(), Duty("try", clock=clock)
    work.error = ZeroDivisionError("oops")
    for _ in range(4):
        duty.attempt(work, "not")
        clock.advance(duty.waits_seconds)
    assert len(caplog.records) == 1
    assert "ZeroDivisionError: oops" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("error", [LeaseLost("x"), StoreUnavailable("x")])
def test_a_lost_lease_or_connection_is_raised_and_is_not_a_failure(
    clock: HandClock, error: Exception
) -> None:
    work, duty = Work(), Duty("try", clock=clock)
    work.error = error
    with pytest.raises(type(error)):
        duty.attempt(work, "not")
    assert duty.waits_seconds == 0


def test_a_refusal_of_the_server_is_raised_only_on_request(clock: HandClock) -> None:
    work = Work()
    work.error = StoreError("OOM")
    assert Duty("try", clock=clock).attempt(work, "not") == "not"
    with pytest.raises(StoreError):
        Duty("try", clock=clock, lets_refusals_pass=True).attempt(work, "not")


@pytest.mark.parametrize("lets_pass", [True, False])
def test_a_broken_record_is_reported(clock: HandClock, *, lets_pass: bool) -> None:
    reported: list[tuple[str, str, str]] = []
    duty = Duty(
        "try",
        clock=clock,
        on_broken=lambda *trouble: reported.append(trouble),
        lets_refusals_pass=lets_pass,
    )
    work = Work()
    work.error = RecordBroken("{x}:due", "is a string")
    assert duty.attempt(work, "not") == "not"
    assert reported == [("", "{x}:due", "is a string")]


def test_a_duty_that_fails_unexpectedly_three_times_in_a_row_is_reported(clock: HandClock) -> None:
    reported: list[tuple[str, str, str]] = []
    duty = Duty("declare", clock=clock, on_broken=lambda *trouble: reported.append(trouble))
    work = Work()

    def fail(error: Exception | None) -> None:
        work.error = error
        clock.advance(MOST_WAIT_SECONDS)
        duty.attempt(work, "not")

    for error in (*[ZeroDivisionError("oops")] * 2, None, *[StoreError("full")] * 3, None):
        fail(error)
    assert reported == []
    for _ in range(3):
        fail(ZeroDivisionError("oops"))
    ((job_id, key, what),) = reported
    assert (job_id, key) == ("", "the duty 'declare'")
    assert what.endswith("ZeroDivisionError: oops")
