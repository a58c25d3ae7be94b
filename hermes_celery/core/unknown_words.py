"""Keep words of a newer version as they are, and never mistake them for known ones.

A stored state, trigger or kind that this version does not know becomes an extra member of its enum.
It prints and is stored as the original word, and equals none of the members that decisions compare
with. This is for values from the store; words that a user types are checked elsewhere.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

_Kind = TypeVar("_Kind", bound=StrEnum)

#: The word shown in place of an unreadable one.
UNREADABLE = "unreadable"


def stored_word(kind: type[_Kind], word: str) -> _Kind:
    """Return the member with that value, or a new one for a word of a newer version."""
    try:
        return kind(word)
    except ValueError:
        member = str.__new__(kind, word)
        member._name_ = member._value_ = word
        return member


def is_known(member: StrEnum) -> bool:
    """Return whether this version knows the word."""
    return member.value in type(member)._value2member_map_
