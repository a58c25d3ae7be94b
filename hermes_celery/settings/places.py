"""The places that settings name: the server, and the home."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from hermes_celery import embedded_server
from hermes_celery.core.server_address import ServerAddress, parse_address
from hermes_celery.errors import SettingsError
from hermes_celery.settings.table import Settings

#: The disk is full, or the user's share of it.
FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def check_home(settings: Settings) -> None:
    """Refuse a Hermes home whose files cannot be read; one that does not exist yet is fine.

    Raises SettingsError.
    """
    home = settings.home
    for read in (lambda: os.listdir(home), lambda: (home / ".env").read_bytes()):
        try:
            read()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise unusable_home(settings, error) from None


def unusable_home(settings: Settings, error: OSError, *, path: Path | None = None) -> SettingsError:
    """Return the error for an unusable home: which file, why, and what to do.

    `path` is the file of an error that names none, as one of a write or a lock.
    """
    given = error.filename or path or settings.home
    where, why = _fault(Path(os.fsdecode(given)), error)
    which = "which" if where == settings.home else f"and {where}"
    return SettingsError([f"HERMES_HOME is {settings.home}, {which} {why}; {_advice(error)}"])


def _advice(error: OSError) -> str:
    if error.errno in FULL:
        return "make room on that disk, or set HERMES_HOME to a directory on another one"
    advice = "set HERMES_HOME to a directory that you own"
    if error.errno in (errno.EACCES, errno.EPERM):
        advice += ", or become the owner of this one"
    return advice


def _fault(path: Path, error: OSError) -> tuple[Path, str]:
    """Return which path is at fault, and why: a file may stand where a directory is needed."""
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        for one in (path, *path.parents):
            if one.exists() and not one.is_dir():
                return one, "is a file"
    return path, f"cannot be used: {error.strerror or error}"


def redis_url(settings: Settings) -> str:
    """Return the URL of the server that these settings mean."""
    return settings.redis_url or embedded_server.url(settings.state_dir)


def address_of(settings: Settings) -> ServerAddress:
    """Return the address of the server that these settings mean. Raises SettingsError."""
    if settings.address is not None:
        return settings.address
    try:
        return parse_address(redis_url(settings))
    except ValueError as error:
        raise SettingsError([f"HERMES_REDIS_URL: {error}"]) from None
