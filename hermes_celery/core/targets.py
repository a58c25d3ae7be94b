"""Turn the text of `deliver` into targets, by Hermes' rules (hermes-agent 0.19).

    local                    nowhere: the output stays with the run
    origin                   the chat where the job was made, else the first home channel
    telegram                 the platform's home channel, or the origin if it is on this platform
    telegram:-100123:17      a chat, and a thread in it
    all                      every home channel that exists when it is sent
    ops                      a name from targets.toml
    json://host/path         any apprise URL; write a comma in it as %2C
    file://daily.md          a file under $HERMES_HOME/cron/output

Commas separate several targets. `parse` is the only reader of one part: delivery, the check
beforehand and a run's session all use it. The module is pure: the environment and the named targets
are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache

import msgspec

from hermes_celery.core.job import Origin
from hermes_celery.errors import shown
from hermes_celery.masking.urls import masked

LOCAL, ORIGIN, ALL = "local", "origin", "all"

#: Platforms and the variable with their home channel, in the order in which Hermes tries them.
HOME_VARIABLES: Mapping[str, str] = {
    "matrix": "MATRIX_HOME_ROOM",
    "telegram": "TELEGRAM_HOME_CHANNEL",
    "discord": "DISCORD_HOME_CHANNEL",
    "slack": "SLACK_HOME_CHANNEL",
    "signal": "SIGNAL_HOME_CHANNEL",
    "mattermost": "MATTERMOST_HOME_CHANNEL",
    "sms": "SMS_HOME_CHANNEL",
    "email": "EMAIL_HOME_ADDRESS",
    "dingtalk": "DINGTALK_HOME_CHANNEL",
    "feishu": "FEISHU_HOME_CHANNEL",
    "wecom": "WECOM_HOME_CHANNEL",
    "weixin": "WEIXIN_HOME_CHANNEL",
    "bluebubbles": "BLUEBUBBLES_HOME_CHANNEL",
    "qqbot": "QQBOT_HOME_CHANNEL",
    "whatsapp": "WHATSAPP_HOME_CHANNEL",
    "whatsapp_cloud": "WHATSAPP_CLOUD_HOME_CHANNEL",
    # Plugins of Hermes.
    "ntfy": "NTFY_HOME_CHANNEL",
    "homeassistant": "HASS_HOME_CHANNEL",
}
_OLD_NAMES = {"QQBOT_HOME_CHANNEL": "QQ_HOME_CHANNEL"}
PLATFORMS = frozenset(HOME_VARIABLES) | {
    "wecom_callback", "webhook", "yuanbao", "teams", "google_chat", "irc", "line", "photon",
}  # fmt: skip
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_HOST_END = re.compile(r"[/?#]")
_WORD = re.compile(r"[A-Za-z][\w.-]*")
#: Platforms with `CHAT:THREAD`. On others a colon is part of the chat's id: `matrix:!room:host`,
#: `signal:group:ID`, `teams:19:ID@thread.tacv2`.
_WITH_THREADS = frozenset({"telegram", "discord", "slack", "feishu"})


class Target(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One place for a message: a chat of a platform, a URL, or the name of a URL."""

    platform: str = ""
    chat_id: str = ""
    thread_id: str | None = None
    #: An apprise or file URL, as it was given.
    url: str = ""
    #: A name from targets.toml; its URL is looked up when the message is sent.
    name: str = ""

    @property
    def far_end(self) -> str:
        """The host, platform or name that answers for this target, whatever the chat or path.

        It may contain a token.
        """
        if not self.url:
            return f"name {self.name}" if self.name else f"platform {self.platform.lower()}"
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{_HOST_END.split(rest, maxsplit=1)[0].rpartition('@')[2]}".lower()

    @property
    def label(self) -> str:
        """The target without its secrets, for people and logs."""
        if self.url:
            return masked(self.url)
        if self.name:
            return self.name
        return ":".join(part for part in (self.platform, self.chat_id, self.thread_id) if part)


class PartKind(StrEnum):
    """The kind of a part of `deliver`, as far as its text shows."""

    LOCAL = "local"
    ORIGIN = "origin"
    ALL = "all"
    URL = "url"
    #: A chat of a known or unknown platform.
    CHAT = "chat"
    #: A platform alone: its home channel, or the origin if it is on this platform.
    PLATFORM = "platform"
    #: Another word: a name from targets.toml, or an error.
    WORD = "word"


class TargetPart(msgspec.Struct, frozen=True, kw_only=True):
    """One part of `deliver` after parsing."""

    kind: PartKind
    text: str
    #: The target, if the text alone names it: a URL or a chat.
    target: Target | None = None


def parse(part: str) -> TargetPart:
    """Parse one part of `deliver`; any text is accepted, and nothing is looked up."""
    if part in (LOCAL, ORIGIN):
        return TargetPart(kind=PartKind(part), text=part)
    if part.lower() == ALL:
        return TargetPart(kind=PartKind.ALL, text=part)
    if _SCHEME.match(part):
        return TargetPart(kind=PartKind.URL, text=part, target=Target(url=part))
    if ":" in part:
        return TargetPart(kind=PartKind.CHAT, text=part, target=_chat(part))
    kind = PartKind.PLATFORM if part in PLATFORMS else PartKind.WORD
    return TargetPart(kind=kind, text=part)


def _chat(part: str) -> Target:
    platform, _, chat_id = (piece.strip() for piece in part.partition(":"))
    thread_id = ""
    if platform.lower() in _WITH_THREADS:
        chat_id, _, thread_id = chat_id.partition(":")
    return Target(platform=platform, chat_id=chat_id, thread_id=thread_id or None)


_CHATS = (PartKind.ORIGIN, PartKind.ALL, PartKind.CHAT, PartKind.PLATFORM)


@lru_cache(maxsize=1_000)
def _first_for_chats(deliver: str) -> TargetPart | None:
    """Return the first part that means chats; cached, as each message's session asks for it."""
    return next((part for part in map(parse, parts_of(deliver)) if part.kind in _CHATS), None)


def first_chat(deliver: str, *, origin: Origin | None) -> Target | None:
    """Return the first chat that `deliver` names; for a home channel only its platform.

    Returns None if `deliver` names no chat, or if `origin` or `all` means home channels before it.
    """
    part = _first_for_chats(deliver)
    if part is None or part.kind is PartKind.ALL:
        return None
    if part.kind is PartKind.ORIGIN:
        return _of_origin(origin)
    if part.kind is PartKind.CHAT:
        return part.target
    return _origin_of_platform(part, origin) or Target(platform=part.text)


class UnknownTarget(ValueError):
    """A part of `deliver` names no known target."""


def normalised(deliver: object) -> str:
    """Return `deliver` as Hermes stores it: lists are joined, nothing becomes `local`."""
    if deliver is None or deliver == "":
        return LOCAL
    if isinstance(deliver, (list, tuple)):
        return ",".join(part for part in (str(item).strip() for item in deliver) if part) or LOCAL
    return str(deliver)


def resolve(
    deliver: str,
    *,
    origin: Origin | None,
    environment: Mapping[str, str],
    names: Mapping[str, str],
) -> list[Target]:
    """Return every target that `deliver` means now, without duplicates.

    Parts that resolve to nothing are left out, as in Hermes; `check` refuses them beforehand.
    """
    found: dict[tuple[str, ...], Target] = {}
    for part in _expanded(deliver, environment):
        target = _resolved(part, origin=origin, environment=environment, names=names)
        if target is not None:
            key = (target.platform.lower(), target.chat_id, target.thread_id or "", target.url,
                   target.name)  # fmt: skip
            found.setdefault(key, target)
    return list(found.values())


def parts_of(deliver: str) -> list[str]:
    """Return the parts of `deliver` as they were written."""
    return [part for part in (piece.strip() for piece in deliver.split(",")) if part]


def is_url(part: str) -> bool:
    """Return whether a part of `deliver` is a URL."""
    return parse(part).kind is PartKind.URL


def is_reserved(part: str) -> bool:
    """Return whether a part has a meaning of its own, so that targets.toml cannot define it."""
    return parse(part).kind in (
        PartKind.LOCAL, PartKind.ORIGIN, PartKind.ALL, PartKind.PLATFORM,
    )  # fmt: skip


def check(part: str, *, names: Mapping[str, str]) -> None:
    """Raise UnknownTarget for a part that has no meaning; URLs are checked elsewhere."""
    read = parse(part)
    if read.kind is PartKind.CHAT and read.target is not None:
        platform = read.target.platform
        if platform.lower() not in PLATFORMS:
            raise UnknownTarget(f"unknown platform {shown(platform)}; platforms are {_listed()}")
        if not read.target.chat_id.strip(":"):
            raise UnknownTarget(f"{shown(part)} names no chat; write {platform}:CHAT or {platform}")
    if read.kind is not PartKind.WORD or part in names:
        return
    if not _WORD.fullmatch(part):
        raise UnknownTarget(
            f"{shown(part)} is not a target; write local, origin, all, PLATFORM[:CHAT[:THREAD]], a "
            "name from targets.toml or a URL (in a URL, write a comma as %2C)"
        )
    raise UnknownTarget(
        f"{shown(part)} is neither a platform nor a name in targets.toml; platforms are {_listed()}"
    )


def home_of(platform: str, environment: Mapping[str, str]) -> Target | None:
    """Return a platform's home channel, if it has one."""
    variable = HOME_VARIABLES.get(platform.lower())
    if variable is None:
        return None
    chat_id = _read(variable, environment)
    if not chat_id:
        return None
    thread_id = _read(variable, environment, suffix="_THREAD_ID").strip()
    if platform.lower() == "telegram":
        thread_id = environment.get("TELEGRAM_CRON_THREAD_ID", "").strip() or thread_id
    return Target(platform=platform, chat_id=chat_id, thread_id=thread_id or None)


def _read(variable: str, environment: Mapping[str, str], *, suffix: str = "") -> str:
    old = _OLD_NAMES.get(variable)
    value = environment.get(variable + suffix, "")
    return value or (environment.get(old + suffix, "") if old else "")


def _expanded(deliver: str, environment: Mapping[str, str]) -> Iterator[TargetPart]:
    for part in map(parse, parts_of(deliver)):
        if part.kind is PartKind.ALL:
            yield from (parse(name) for name in HOME_VARIABLES if home_of(name, environment))
        else:
            yield part


def _resolved(
    part: TargetPart,
    *,
    origin: Origin | None,
    environment: Mapping[str, str],
    names: Mapping[str, str],
) -> Target | None:
    match part.kind:
        case PartKind.LOCAL:
            return None
        case PartKind.URL | PartKind.CHAT:
            return part.target
        case PartKind.ORIGIN:
            return _of_origin(origin) or _first_home(environment)
        case PartKind.WORD if part.text in names:
            return Target(name=part.text)
    return _origin_of_platform(part, origin) or home_of(part.text, environment)


def _origin_of_platform(part: TargetPart, origin: Origin | None) -> Target | None:
    """Return the origin if it is on the platform that a part names."""
    found = _of_origin(origin)
    return found if found is not None and found.platform == part.text else None


def _of_origin(origin: Origin | None) -> Target | None:
    """Return the chat in which a job was made; None if it was not made in a chat."""
    if origin is None or not (origin.platform and origin.chat_id):
        return None
    return Target(
        platform=origin.platform, chat_id=origin.chat_id, thread_id=origin.thread_id or None
    )


def _first_home(environment: Mapping[str, str]) -> Target | None:
    homes = (home_of(name, environment) for name in HOME_VARIABLES)
    return next((home for home in homes if home is not None), None)


def _listed(names: Sequence[str] = tuple(sorted(PLATFORMS))) -> str:
    return ", ".join(names)
