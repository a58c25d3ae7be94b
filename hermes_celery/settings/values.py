"""Turn the text of a variable into its value. Each function raises ValueError for an invalid text.

`table` names the function of each variable. None of them reads the environment.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from zoneinfo import ZoneInfo

from hermes_celery.core.server_address import parse_address
from hermes_celery.errors import shown
from hermes_celery.masking.server_urls import without_password

#: How long a script may run, in seconds. It also takes the place of an invalid value.
DEFAULT_SCRIPT_TIMEOUT = 3600
_NAMESPACE = re.compile(r"[^\W_][\w.-]{0,39}")
_REDIS_SCHEMES = ("redis", "rediss", "unix", "sentinel")
#: Each run needs a process or thread; a larger number is a typing error, or needs more workers.
_MOST_WORKERS = 1000
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[\w.:-]+")
#: Words that a user means as "all", but which would be read as host names.
_NO_HOSTS = frozenset({"1", "true", "yes", "all", "any"})


def home_directory(text: str) -> Path:
    """Return an absolute path; `~` is a user's home directory."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{text!r} names no such user; give an absolute path") from None


def server_url(text: str) -> str | None:
    """Return the URL of a Redis server unchanged; None if there is none."""
    if not text:
        return None
    scheme = text.partition(":")[0].lower()
    if scheme not in _REDIS_SCHEMES:
        raise ValueError(
            f"{without_password(text)!r} is not the URL of a Redis server, and only Redis can be "
            "both store and broker; use redis://host:6379/0, rediss://, unix:///path.sock or "
            "sentinel://host:26379,host:26379/0?master_name=NAME"
        )
    try:
        parse_address(text)
    except ValueError as error:
        raise ValueError(f"{without_password(text)!r}: {error}") from None
    return text


def checked_namespace(text: str) -> str:
    """Return the name of a namespace unchanged. Raises ValueError if it cannot be one."""
    if not _NAMESPACE.fullmatch(text):
        raise ValueError(
            f"{shown(text)} must be 1 to 40 letters, digits, '-', '_' or '.', and begin with a "
            "letter or digit"
        )
    return text


def concurrency(text: str) -> int:
    """Return how many runs a worker performs at once."""
    try:
        workers = int(text)
    except ValueError:
        workers = 0
    if workers < 1:
        raise ValueError(f"{text!r} must be a whole number of at least 1 (1 means serial)")
    if workers > _MOST_WORKERS:
        raise ValueError(
            f"{text!r} must be at most {_MOST_WORKERS:,}; start more workers to run more at once"
        )
    return workers


def count(text: str) -> int:
    """Return a whole number from 1 to 1,000,000."""
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise ValueError(f"{text!r} must be a whole number from 1 to 1,000,000")
    return int(text)


def number_of_seconds(text: str) -> float:
    """Return a number of seconds that may be 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise ValueError(f"{text!r} must be a number of seconds, 0 or more and below 1,000,000")
    return seconds


def seconds_above_zero(text: str) -> float:
    """Return a number of seconds that is not 0."""
    seconds = number_of_seconds(text)
    if not seconds:
        raise ValueError(f"{text!r} must be a number of seconds above 0")
    return seconds


class IgnoredValue(ValueError):
    """A value that is reported and replaced by the default, as in Hermes."""


def script_timeout(text: str) -> int:
    """Read the time limit of scripts as Hermes does.

    A fraction is cut off; anything but a positive number is replaced by the default.
    """
    try:
        seconds = int(float(text))
    except (ValueError, OverflowError):
        seconds = 0
    if seconds < 1:
        raise IgnoredValue(
            f"{text!r} is not a number of seconds of at least 1; as in Hermes, the "
            f"default of {DEFAULT_SCRIPT_TIMEOUT} s is used"
        )
    return seconds


def timezone(text: str) -> str:
    """Return the name of a time zone unchanged; without one, the name of the machine's."""
    if not text:
        return _host_timezone()
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{text!r} is not a time zone; use a name like Europe/Berlin") from None
    return text


def _host_timezone() -> str:
    """Return the IANA name of the machine's time zone; UTC if it has none."""
    import tzlocal  # takes 10 ms, and most commands do not need it

    try:
        name = tzlocal.get_localzone_name()
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return "UTC"
    return str(name)


def switch(text: str) -> bool:
    """Return whether a switch is on."""
    try:
        return {"on": True, "1": True, "true": True, "off": False, "0": False, "false": False}[
            text.lower()
        ]
    except KeyError:
        raise ValueError(f"{text!r} must be on or off") from None


def http_url(text: str) -> str:
    """Return an http(s) URL unchanged."""
    if not text:
        return text
    from hermes_celery.core.work import checked_url  # only if set, so that others start faster

    try:
        checked_url(text)
    except ValueError as error:
        raise ValueError(
            f"it must be an http(s) URL, such as https://hc-ping.com/UUID; {error}"
        ) from None
    return text


def command_line(text: str) -> str:
    """Return a command line that contains `{prompt}` unchanged."""
    if text:
        try:
            words = shlex.split(text.replace("[", " ").replace("]", " "))
        except ValueError as error:
            raise ValueError(f"{text!r} is not a valid command line: {error}") from None
        if not words or "{prompt}" not in text:
            raise ValueError(f"{text!r} must name a program and contain {{prompt}}")
    return text


def variable_names(text: str) -> frozenset[str]:
    """Return the names of variables in a list."""
    names = frozenset(text.replace(",", " ").split())
    for name in sorted(names):
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is not a variable's name; list names, without values")
    return names


def session(text: str) -> str:
    """Return `origin` or `none`."""
    if text not in ("origin", "none"):
        raise ValueError(f"{text!r} must be origin or none")
    return text


def directories(text: str) -> tuple[Path, ...]:
    """Return the absolute paths in a list with colons."""
    paths = tuple(Path(part) for part in text.split(os.pathsep) if part)
    for path in paths:
        if not path.is_absolute():
            raise ValueError(f"{str(path)!r} must be an absolute path of a directory")
    return paths


def hosts(text: str) -> frozenset[str]:
    """Return the names and addresses of hosts in a list, in lower case."""
    names = frozenset(text.lower().replace(",", " ").split())
    for name in sorted(names):
        if not _HOST.fullmatch(name) or name in _NO_HOSTS:
            raise ValueError(
                f"{name!r} is not a host; list names or addresses, or write on for all"
            )
    return names


def log_format(text: str) -> str:
    """Return `text` or `json`."""
    if text not in ("text", "json"):
        raise ValueError(f"{text!r} must be text or json")
    return text
