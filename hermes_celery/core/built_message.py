"""What became of a message that was built: something to push, or the reason why there is none."""

from __future__ import annotations

from enum import Enum

import msgspec

#: How a stand-in begins: the run's message is built when the run was admitted. What comes after it
#: is a whole message that harms nobody, since JSON may begin with a space.
STAND_IN = b" "


class BuildOutcome(Enum):
    """Which way a message went."""

    #: To be pushed by whoever built it.
    PUSH = "push"
    #: The project's own code has published it, and it carries the run.
    ELSEWHERE = "elsewhere"
    #: The project's own code has published it as a message that is no run's.
    UNFOLLOWED = "unfollowed"
    #: Nothing was published.
    NOWHERE = "nowhere"
    #: Building it failed.
    FAILED = "failed"
    #: Building it goes on: it is to be asked for again.
    PENDING = "pending"


class BuiltMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message, or what became of it."""

    way: BuildOutcome = BuildOutcome.PUSH
    queue: str = ""
    message: bytes = b""
    #: Why there is nothing to push; one sentence.
    why: str = ""

    @property
    def why_sent(self) -> str:
        """Why its run is over now, and nobody follows it; "" where somebody does."""
        return self.why if self.way is BuildOutcome.UNFOLLOWED else ""


def is_stand_in(message: bytes) -> bool:
    """Whether the message of a run is still to be built."""
    return message[:1] == STAND_IN
