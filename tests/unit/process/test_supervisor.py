"""A child process that keeps ending is restarted without limit, after growing waits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hermes_celery.process.supervisor import Child, Supervisor
from tests.support import HandClock, eventually


class SupervisedChild:
    """A supervisor with a hand-set clock and one child that ends at once."""

    def __init__(self, tmp_path: Path, clock: HandClock) -> None:
        self.clock = clock
        self.said: list[str] = []
        self.marks = tmp_path / "marks"
        self.child = Child(
            name="beat",
            command=[sys.executable, "-c",
                     f"open({str(self.marks)!r}, 'a').write('x'); raise SystemExit(3)"],
            log=tmp_path / "beat.log",
            stop_seconds=5,
        )  # fmt: skip
        self.supervisor = Supervisor(
            environment={}, say=self.said.append, monotonic=clock.monotonic
        )

    def starts(self) -> int:
        return len(self.marks.read_text()) if self.marks.exists() else 0

    def await_end(self, count: int) -> None:
        """Wait until the supervisor has noticed the child's end number `count`."""

        def looked() -> bool:
            self.supervisor.check()
            return len(self.said) == count

        eventually(looked, what=f"end number {count} of the child")


@pytest.fixture
def supervised(tmp_path: Path, clock: HandClock) -> Iterator[SupervisedChild]:
    supervised = SupervisedChild(tmp_path, clock)
    supervised.supervisor.start(supervised.child)
    yield supervised
    supervised.supervisor.stop()


def test_the_waits_double_up_to_a_minute_and_restarts_never_stop(
    supervised: SupervisedChild,
) -> None:
    waits = [1, 2, 4, 8, 16, 32, 59.9, 59.9]
    for number, wait in enumerate(waits, start=1):
        supervised.await_end(number)
        assert supervised.starts() == number
        supervised.clock.advance(wait - 0.5)
        supervised.supervisor.check()
        assert supervised.supervisor.pid("beat") is None, "no restart before the wait is over"
        supervised.clock.advance(0.7)
        supervised.supervisor.check()
        assert supervised.supervisor.pid("beat") is not None
    assert "beat ended (exit 3), starting it again; its log is" in supervised.said[0]
    assert "beat ended (exit 3), starting it again in 60 s; its log is" in supervised.said[-1]


def test_a_child_that_ran_for_a_minute_restarts_with_the_first_wait(
    supervised: SupervisedChild,
) -> None:
    for number in (1, 2, 3):
        supervised.await_end(number)
        supervised.clock.advance(10)
        supervised.supervisor.check()
    supervised.clock.advance(61)
    supervised.await_end(4)
    assert "starting it again; its log" in supervised.said[-1]


def test_a_child_that_cannot_be_started_is_tried_again(
    supervised: SupervisedChild, tmp_path: Path
) -> None:
    supervised.await_end(1)
    supervised.child.log.unlink()
    supervised.child.log.mkdir()
    supervised.clock.advance(1.1)
    supervised.supervisor.check()
    assert "beat cannot be started" in supervised.said[-1]
    supervised.child.log.rmdir()
    supervised.clock.advance(2.1)
    supervised.supervisor.check()
    assert supervised.supervisor.pid("beat") is not None


def report_of_end(supervised: SupervisedChild, code: str) -> str:
    """Run a second child with this code, with the same log, and return the report of its end."""
    supervised.await_end(1)
    command = [sys.executable, "-c", code]
    supervised.supervisor.start(
        msgspec.structs.replace(supervised.child, name="worker", command=command)
    )
    supervised.await_end(2)
    return supervised.said[-1]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('Error: no room'); print('bye'); raise SystemExit(1)", "(exit 1: Error: no room)"),
        ("import nonsense_of_no_name", "(exit 1: ModuleNotFoundError: No module named 'nonsense"),
        ("print('Error: old'); print('Error: new')", "(exit 0: Error: new)"),
        ("print('all is well'); print('no Error: here')", "worker ended (exit 0), starting"),
        ("print('Error: ' + 'x' * 9999)", "(exit 0: Error: " + "x" * 493 + ")"),
    ],
)
def test_the_error_in_a_childs_log_is_reported_with_its_end(
    supervised: SupervisedChild, code: str, said: str
) -> None:
    assert said in report_of_end(supervised, code)


def test_an_error_of_an_earlier_start_is_not_reported_again(supervised: SupervisedChild) -> None:
    supervised.child.log.write_text("Error: of yesterday\n")
    assert "yesterday" not in report_of_end(supervised, "print('hello')")
