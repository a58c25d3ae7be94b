"""The result of building a run's message: a message to push, or the reason why there is none."""

from __future__ import annotations

from enum import Enum

import msgspec

#: First byte of a placeholder: the real message is built after the run was admitted. The rest of
#: the placeholder is a complete and harmless message, because JSON may begin with a space.
STAND_IN = b" "


class BuildOutcome(Enum):
    """The ways in which the building of a message ends."""

    #: The builder pushes the message.
    PUSH = "push"
    #: The project's own code has published it, with the run's id in it.
    ELSEWHERE = "elsewhere"
    #: The project's own code has published it without the run's id.
    UNFOLLOWED = "unfollowed"
    #: Nothing was published.
    NOWHERE = "nowhere"
    #: Building it failed.
    FAILED = "failed"
    #: Building is not finished: ask for the message again later.
    PENDING = "pending"


class BuiltMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message to push, or the reason why nothing is pushed."""

    way: BuildOutcome = BuildOutcome.PUSH
    queue: str = ""
    message: bytes = b""
    #: Why there is nothing to push, in one sentence.
    why: str = ""

    @property
    def why_sent(self) -> str:
        """Why the run is `sent`: nobody can follow its message; "" if somebody can."""
        return self.why if self.way is BuildOutcome.UNFOLLOWED else ""


def is_stand_in(message: bytes) -> bool:
    """Return whether this is a placeholder for a message that is still to be built."""
    return message[:1] == STAND_IN
