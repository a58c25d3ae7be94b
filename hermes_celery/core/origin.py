"""Who and where a job was made for, and whether its runs see it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who and where the job was made for: the seed of its runs' session."""

    platform: str = ""
    chat_id: str = ""
    chat_name: str = ""
    thread_id: str = ""
    user_id: str = ""
    user_name: str = ""
    source: str = ""
    session_key: str = ""
    session_id: str = ""
    ui_session_id: str = ""
    message_id: str = ""
    profile: str = ""


class SessionSource(StrEnum):
    """What the session of a job's runs is made of."""

    #: The job's origin: who and where it was made for.
    ORIGIN = "origin"
    #: Nothing: every session variable is "", so that a run never passes for a live chat.
    NONE = "none"


def origin_text(origin: Origin) -> str:
    """Where that is, for people."""
    parts = (origin.platform, origin.chat_name or origin.chat_id, origin.thread_id)
    return " / ".join(part for part in parts if part)
