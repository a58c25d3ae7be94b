"""The user and chat that a job was made for, and whether its runs see them."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The user and chat that the job was made for; a run's session is made from it."""

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
    """The source of the session of a job's runs."""

    #: The job's origin.
    ORIGIN = "origin"
    #: Nothing: every session variable is "", so that a run is never taken for a live chat.
    NONE = "none"


def origin_text(origin: Origin) -> str:
    """Return platform, chat and thread of an origin, for people."""
    parts = (origin.platform, origin.chat_name or origin.chat_id, origin.thread_id)
    return " / ".join(part for part in parts if part)
