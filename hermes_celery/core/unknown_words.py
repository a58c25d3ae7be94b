"""Words of a newer version: kept and shown as they are, never taken for one of ours.

A stored state, trigger or kind that this version does not know becomes a member of its enum that is
no other member: it prints and is written back as the word it was, and equals nothing that decisions
ask for. What somebody types is checked elsewhere; this is for what is read from the store.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

_Kind = TypeVar("_Kind", bound=StrEnum)

#: The word shown in the place of one that cannot be read at all.
UNREADABLE = "unreadable"


def stored_word(kind: type[_Kind], word: str) -> _Kind:
    """The member of that value, or one made for a word that this version does not know."""
    try:
        return kind(word)
    except ValueError:
        member = str.__new__(kind, word)
        member._name_ = member._value_ = word
        return member


def is_known(member: StrEnum) -> bool:
    """Whether this version knows the word."""
    return member.value in type(member)._value2member_map_
