"""A child that keeps ending is started again for ever, after growing waits."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hermes_celery.process.supervisor import Child, Supervisor
from tests.support import HandClock, eventually


class Stand:
    """A supervisor with a clock set by hand and one child that ends at once."""

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

    def ended(self, count: int) -> None:
        """Wait until it was noticed that the child ended for the `count`-th time."""

        def looked() -> bool:
            self.supervisor.check()
            return len(self.said) == count

        eventually(looked, what=f"ending number {count}")


@pytest.fixture
def stand(tmp_path: Path, clock: HandClock) -> Iterator[Stand]:
    stand = Stand(tmp_path, clock)
    stand.supervisor.start(stand.child)
    yield stand
    stand.supervisor.stop()


def test_the_waits_double_up_to_a_minute_and_nobody_gives_up(stand: Stand) -> None:
    waits = [1, 2, 4, 8, 16, 32, 59.9, 59.9]
    for number, wait in enumerate(waits, start=1):
        stand.ended(number)
        assert stand.starts() == number
        stand.clock.advance(wait - 0.5)
        stand.supervisor.check()
        assert stand.supervisor.pid("beat") is None, "it is not started before its time"
        stand.clock.advance(0.7)
        stand.supervisor.check()
        assert stand.supervisor.pid("beat") is not None
    assert "beat ended (exit 3), starting it again; its log is" in stand.said[0]
    assert "beat ended (exit 3), starting it again in 60 s; its log is" in stand.said[-1]


def test_one_that_worked_for_a_minute_begins_again_at_a_second(stand: Stand) -> None:
    for number in (1, 2, 3):
        stand.ended(number)
        stand.clock.advance(10)
        stand.supervisor.check()
    stand.clock.advance(61)
    stand.ended(4)
    assert "starting it again; its log" in stand.said[-1]


def test_one_that_cannot_be_started_is_tried_again(stand: Stand, tmp_path: Path) -> None:
    stand.ended(1)
    stand.child.log.unlink()
    stand.child.log.mkdir()
    stand.clock.advance(1.1)
    stand.supervisor.check()
    assert "beat cannot be started" in stand.said[-1]
    stand.child.log.rmdir()
    stand.clock.advance(2.1)
    stand.supervisor.check()
    assert stand.supervisor.pid("beat") is not None


def ended_with(stand: Stand, code: str) -> str:
    """What is said of a child that ends after this code; its log is one that goes on."""
    stand.ended(1)
    command = [sys.executable, "-c", code]
    stand.supervisor.start(msgspec.structs.replace(stand.child, name="worker", command=command))
    stand.ended(2)
    return stand.said[-1]


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
def test_what_a_child_said_of_an_error_is_told_with_its_end(
    stand: Stand, code: str, said: str
) -> None:
    assert said in ended_with(stand, code)


def test_an_error_of_an_earlier_start_is_not_told_again(stand: Stand) -> None:
    stand.child.log.write_text("Error: of yesterday\n")
    assert "yesterday" not in ended_with(stand, "print('hello')")
