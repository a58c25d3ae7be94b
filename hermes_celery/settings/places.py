"""The places that settings name: the server, and the home."""

from __future__ import annotations

import os

from hermes_celery import embedded_server
from hermes_celery.core.server_address import ServerAddress, parse_address
from hermes_celery.errors import SettingsError
from hermes_celery.settings.table import Settings


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


def unusable_home(settings: Settings, error: OSError) -> SettingsError:
    """Return the error for an unusable home: which file, why, and what to do."""
    where = error.filename or settings.home
    return SettingsError([
        f"HERMES_HOME is {settings.home}, and {where} cannot be used: {error.strerror or error}; "
        "set HERMES_HOME to a directory that you own, or become the owner of this one"
    ])  # fmt: skip


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
